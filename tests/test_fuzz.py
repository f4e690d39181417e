"""The targets of `make fuzz` without a fuzzer: they pass, and they notice what is wrong."""

import re
from hashlib import pbkdf2_hmac
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from distributed_comm import _command as command
from distributed_comm._calls import operations, remote_errors, stream_handlers
from distributed_comm._kernels import address_py, blocks, frame0
from distributed_comm._serialize import decode, embedded, encode, pickles, tags
from distributed_comm._tls.stream import TLSStream
from distributed_comm._wire import hello
from distributed_comm._wire.length_framing import LengthFraming
from distributed_comm._wire.sentinel_framing import SentinelFraming

from .fuzz import costing
from .fuzz.directed import directed
from .fuzz.samples import registrations, samples
from .fuzz.trying import NAMES, inputs

ROOT = Path(__file__).parents[1]
MIB = 1024 * 1024


def run(name, count):
    target = import_module(f"{__package__}.fuzz.fuzz_{name}")
    for data in inputs(target.seeds(), count):
        target.check(data)


@pytest.mark.timeout(300)  # the seeds are what takes long; 5 s where nothing else runs
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
    "command": (command, "printable", lambda text, _=0: text),
    "envelope": (operations, "_is_usual", lambda *_: True),
    "errors": (remote_errors, "_may_be_dict", lambda _: False),
    "frame0": (decode, "MessageError", KeyError),
    "framing": (LengthFraming, "_carry_over", forget),
    "hello": (hello, "_check_nonce", nothing),
    "messages": (frame0, "scan", lambda *_: 0),
    "objects": (encode, "KINDS", encode.KINDS | {set: tags.FROZENSET}),
    "requests": (operations, "requires_trust", lambda _: False),
    "sentinel": (SentinelFraming, "_carry_over", forget),
    "shards": (embedded, "COLLECTIONS", {"list": tuple, "tuple": list, "set": set}),
    "streams": (stream_handlers, "requires_trust", lambda _: False),
    "tls": (TLSStream, "_end", nothing),
    "types": (pickles, "check_trust", nothing),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", NAMES)
def test_a_target_notices(name, monkeypatch):
    monkeypatch.setattr(*WRONG[name])
    with pytest.raises((AssertionError, KeyError)):
        run(name, 300)


# -- costs -----------------------------------------------------------------------------------


@pytest.fixture
def measured(monkeypatch):
    """Have costs measured whatever kernels there are."""
    monkeypatch.setattr(costing, "_slowness", [1.0])


measuring = pytest.mark.usefixtures("measured")


@measuring
def test_cpu_and_memory_beyond_the_bounds_are_noticed_and_both_named():
    figures = r"[\d.]+ ms of CPU and \d+ bytes at once for 10 bytes of input, expected at most "
    for costly in (lambda: pbkdf2_hmac("sha256", b"", b"", 10**6), lambda: bytes(2 * MIB)):
        with pytest.raises(AssertionError, match=figures):
            costing.spend(10, costly)


@measuring
def test_more_bytes_may_cost_more():
    assert len(costing.spend(MIB, lambda: bytes(50 * MIB))) == 50 * MIB
    few, many = costing.bound(0), costing.bound(10 * MIB)
    assert few.nbytes == MIB
    assert many.nbytes == 1001 * MIB
    assert many.seconds == pytest.approx(41 * few.seconds)


@measuring
def test_what_it_costs_to_fail_is_noticed_and_an_error_passes():
    def fail(nbytes):
        kept = bytes(nbytes)
        raise KeyError(len(kept))

    with pytest.raises(KeyError, match="5"):
        costing.spend(10, lambda: fail(5))
    with pytest.raises(AssertionError, match="bytes at once"):
        costing.spend(10, lambda: fail(2 * MIB))


@measuring
def test_what_exceeds_a_bound_once_stops_nothing():
    sizes = [0, 2 * MIB, 0, 0]  # the first is by the clock
    assert costing.spend(10, lambda: len(bytes(sizes.pop(0)))) == 0
    assert not sizes


@measuring
def test_memory_of_arrow_is_noticed():
    pa = pytest.importorskip("pyarrow")
    with pytest.raises(AssertionError, match="bytes at once"):
        costing.spend(10, lambda: pa.allocate_buffer(2 * MIB))
    stream = next(each for each in directed() if each.about == "dictionary deltas").frames[0]
    peak = costing._peak(lambda: pa.ipc.open_stream(stream).read_all())
    assert peak > 20 * MIB


# -- what is fuzzed --------------------------------------------------------------------------


def test_each_registered_type_has_a_sample():
    if find_spec("scipy"):
        import_module("scipy.sparse")
    assert {sample.name for sample in samples()} >= registrations()


#: Modules of `_serialize` and `_wire` that are given nothing of a stranger's: what writes, what
#: holds options or counts, and what is only called by those in the table.
NOT_GIVEN = {
    "_serialize": [
        "encode",
        "gate",
        "gc_pause",
        "offload",
        "plain_types",
        "settings",
        "size_estimate",
        "tags",
        "wrap",
        "wrappers",
    ],
    "_wire": ["budget", "framing", "states"],
}


def table():
    """Return the parsers in docs/security.md: what is parsed, the modules and the targets."""
    page = (ROOT / "docs/security.md").read_text()
    rows = page.partition("| what a stranger sends |")[2].partition("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in row.strip("| ").split(" | ")] for row in rows]
    return [(what, *(re.findall(r"`([\w.]+)`", cell) for cell in rest)) for what, *rest in cells]


def test_every_parser_has_a_target():
    rows = table()
    assert len(rows) > 10
    for what, modules, targets in rows:
        assert modules, what
        assert targets, what
        for module in modules:
            path = ROOT / "distributed_comm" / module.replace(".", "/")
            assert path.with_suffix(".py").exists(), f"{what}: there is no {module}"
        assert set(targets) <= set(NAMES), what
    named = {target for _, _, targets in rows for target in targets}
    assert named >= set(NAMES) - {"blocks"}  # which parses nothing


@pytest.mark.parametrize("package", NOT_GIVEN)
def test_every_module_is_in_the_table_or_is_given_nothing(package):
    folder = ROOT / "distributed_comm" / package
    files = [file for file in folder.glob("**/*.py") if file.stem != "__init__"]
    there = {".".join(file.relative_to(folder).with_suffix("").parts) for file in files}
    named = {module for _, modules, _ in table() for module in modules}
    assert there == {
        *(module.partition(".")[2] for module in named if module.startswith(f"{package}.")),
        *NOT_GIVEN[package],
    }
