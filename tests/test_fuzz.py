"""The targets of `make fuzz` without a fuzzer: they pass, and they notice what is wrong."""

from importlib import import_module

import pytest

from distributed_comm import operations
from distributed_comm._kernels import address_py, blocks
from distributed_comm.serialize import decoding, encoding, tags
from distributed_comm.wire import hello
from distributed_comm.wire.framing import LengthFraming
from distributed_comm.wire.sentinel import SentinelFraming

from .fuzz.trying import NAMES, inputs


def run(name, count):
    target = import_module(f"{__package__}.fuzz.fuzz_{name}")
    for data in inputs(target.seeds(), count):
        target.check(data)


@pytest.mark.parametrize("name", NAMES)
def test_a_target_passes(name):
    run(name, 300)


def nothing(*args):
    pass


def forget(framing, *args):
    framing._offset = framing._end


#: For each target a part of the library, and what is there instead.
WRONG = {
    "addresses": (address_py, "normalize_address", nothing),
    "blocks": (blocks, "grow", nothing),
    "envelope": (operations, "_is_usual", lambda *_: True),
    "frame0": (decoding, "MessageError", KeyError),
    "framing": (LengthFraming, "_hold", forget),
    "hello": (hello, "_check_nonce", nothing),
    "objects": (encoding, "KINDS", encoding.KINDS | {set: tags.FROZENSET}),
    "sentinel": (SentinelFraming, "_hold", forget),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_target_notices(name, monkeypatch):
    monkeypatch.setattr(*WRONG[name])
    with pytest.raises((AssertionError, KeyError)):
        run(name, 300)
