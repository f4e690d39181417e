"""Strangers that send as fast as they can, and their victim: the processes of `test_turns`.

    python tests/flood.py serve SCHEME LOOP FOLDER
    python tests/flood.py strangers KIND ADDRESS

The server prints the addresses of three listeners of its one loop, as a line of JSON: one where
everybody is trusted, one where nobody is, and one of comms that are just read.
"""

import asyncio
import json
import selectors
import socket
import ssl
import sys
import threading
import time
from pathlib import Path

import msgpack
from loops import LOOPS
from peers import OUR_HELLO, frame_up, pack

import distributed_comm as dc

CROWD = 100
MIB = 1024 * 1024
KEY = "a key that the strangers do not have"

#: What each stranger sends again and again behind its hello.
FLOODS = {
    "decoded": pack({"op": "count", "x": [[[]] * 100] * 1_000}),
    "refused": pack({"op": "no"}) * 100,
    "answered": pack({"op": "echo", "data": "x" * 10}) * 10,
    "awaited": pack({"op": "nap"}) * 10,
    "arrays": frame_up(msgpack.packb({"op": "count"}), bytes(8 * MIB)),
}


# The server


def count(x: object = None) -> float:
    """Return the seconds that the loop's thread has used."""
    return time.thread_time()


async def nap() -> None:
    await asyncio.sleep(0)


async def read(comm: dc.Comm) -> None:
    async with comm:
        async for _ in comm:
            pass


def serve(scheme: str, folder: str) -> dict[str, object]:
    if scheme != "tls":
        return {}
    texts = json.loads((Path(folder) / "tls.json").read_text())
    return {"security": dc.Security(**texts, mutual=False)}


async def server(scheme: str, folder: str) -> None:
    arguments = serve(scheme, folder)
    if scheme == "unix":
        addresses = [f"unix://{folder}/{n}" for n in range(3)]
    else:
        addresses = [f"{scheme}://127.0.0.1:0"] * 3
    async with (
        dc.Server([count, nap], trusted=None, key=KEY, **arguments) as ours,
        dc.Server([count, nap], trusted=False, **arguments) as theirs,
    ):
        await ours.listen(addresses[0])
        await theirs.listen(addresses[1])
        async with dc.listen(addresses[2], read, trusted=False, **arguments) as reading:
            print(json.dumps([ours.address, theirs.address, reading.contact_address]), flush=True)
            await asyncio.to_thread(sys.stdin.readline)


# The strangers


def dial(address: str) -> socket.socket:
    scheme, _, place = address.partition("://")
    if scheme == "unix":
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(place)
        return sock
    host, _, port = place.rpartition(":")
    sock = socket.create_connection((host, int(port)))
    if scheme == "tcp":
        return sock
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(sock)


def dial_again_and_again(address: str) -> None:
    while True:
        try:
            with dial(address) as sock:
                sock.sendall(OUR_HELLO)
                sock.recv(1)
        except OSError:
            pass


def flood(address: str, payload: bytes) -> None:
    """Send on all connections, and discard what is answered."""
    selector = selectors.DefaultSelector()
    unsent = {}
    for _ in range(CROWD):
        sock = dial(address)
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ | selectors.EVENT_WRITE)
        unsent[sock] = memoryview(OUR_HELLO + payload)
    print("ready", flush=True)
    room = bytearray(MIB)
    while True:
        for key, events in selector.select():
            sock = key.fileobj
            try:
                if events & selectors.EVENT_READ and not sock.recv_into(room):
                    selector.unregister(sock)
                    continue
                if events & selectors.EVENT_WRITE:
                    unsent[sock] = unsent[sock][sock.send(unsent[sock]) :] or memoryview(payload)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                pass
            except OSError:
                selector.unregister(sock)


def strangers(kind: str, address: str) -> None:
    if kind in FLOODS:
        flood(address, FLOODS[kind])
    for _ in range(CROWD):
        threading.Thread(target=dial_again_and_again, args=[address], daemon=True).start()
    print("ready", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        with asyncio.Runner(loop_factory=LOOPS[sys.argv[3]]) as runner:
            runner.run(server(sys.argv[2], sys.argv[4]))
    else:
        strangers(*sys.argv[2:])
