"""Addresses: parsed as specified, and what was parsed is built again."""

from distributed_comm._kernels import address as kernel

from .comparing import agree
from .costing import spend
from .drawing import Draws, seed

PORTS = [None, 0, 1, 80, 65_535, 65_536, -1, 2**32 + 80, 2**64]
ADDRESSES = [
    *["tcp://127.0.0.1:8786", "127.0.0.1:80", "tls+x://my_host.:0", "inproc://1/2", "[::1]:8786"],
    *["tcp://[fe80::1%eth0]:1", "unix:///run/a.sock", "host", ":80", "1a://", "é:80", "[::1%]:1"],
    *["tcp://[::1", "a:00080", "tcp://a:65536", "a:b:80", "\udc80:1", "tcp://" + "a" * 200],
]


def seeds() -> list[bytes]:
    """Return addresses, good and bad, each with a port."""
    encoded = (address.encode("utf-8", "surrogateescape") for address in ADDRESSES)
    return [seed(i % len(PORTS), 3, data) for i, data in enumerate(encoded)]


def check(data: bytes) -> None:
    draws = Draws(data)
    port, cut = draws.choice(PORTS), draws.number(256)
    text = draws.rest().decode("utf-8", "surrogateescape")
    for _ in range(2):  # the second time it may be remembered
        for strict in (False, True):
            agree(kernel, "parse_address", text, strict)
        agree(kernel, "normalize_address", text)
        agree(kernel, "parse_host_port", text, port)
        agree(kernel, "parse_host_port", (text, port))
        agree(kernel, "unparse_host_port", text, port)
        agree(kernel, "unparse_address", text[:cut], text[cut:])
    spend(len(text), lambda: (_check_address(text), _check_host_port(text)))


def _check_address(text: str) -> None:
    """What was parsed is built again."""
    try:
        parts = kernel.parse_address(text)
    except ValueError:
        return
    normal = kernel.normalize_address(text)
    assert kernel.unparse_address(*parts) == normal
    assert kernel.parse_address(normal, strict=True) == parts


def _check_host_port(text: str) -> None:
    """What was built is parsed again."""
    try:
        host, port = kernel.parse_host_port(text, 80)
    except ValueError:
        return
    built = kernel.unparse_host_port(host, port)
    assert kernel.parse_host_port(built) == (host, port)
    assert kernel.parse_host_port(f"tls://{built}", 1) == (host, port)
