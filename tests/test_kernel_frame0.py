"""The look at frame 0 before msgpack decodes it: chosen kernel, specification and msgpack."""

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from distributed_comm._kernels import frame0 as chosen
from distributed_comm._kernels import frame0_py as specification

from .feeding import within
from .twins import each_of

DEPTH = 1024
KIB = 1024
ANY = 2**62  # steps that decoding may take

each_kernel = each_of(chosen, specification)


def verdict(function, *args):
    """Return what the function says, or the text of its ValueError."""
    try:
        return function(*args)
    except ValueError as exc:
        return str(exc)


def decode(data):
    """Decode as the library does, with lists."""
    return msgpack.unpackb(data, raw=False, strict_map_key=False, use_list=True)


scalars = st.one_of(
    *[st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats()],
    *[st.binary(max_size=40), st.text(max_size=9)],
    st.builds(msgpack.Timestamp, st.sampled_from([0, 2**32, 2**34, -1]), st.sampled_from([0, 5])),
    st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=17)),
    st.sampled_from([255, 256, 65_535, 65_536]).map(bytes),  # lengths of 1, 2 and 4 bytes
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=20), st.dictionaries(st.text(max_size=3), inner, max_size=20)
    ),
    max_leaves=10,
)
packed = values.map(msgpack.packb)

FIRST_BYTES = st.sampled_from([0x80, 0x81, 0x8F, 0x90, 0x91, 0x9F, *range(0xC0, 0xE0)])
pieces = st.one_of(FIRST_BYTES.map(lambda b: bytes([b])), st.binary(max_size=5), packed)
hostile = st.one_of(
    st.binary(),
    st.lists(pieces, max_size=8).map(b"".join),
    st.builds(
        lambda data, at, byte: data[: at % len(data)] + bytes([byte]) + data[at % len(data) + 1 :],
        *[packed, st.integers(0, 999), st.integers(0, 255)],
    ),
)


@given(packed)
def test_what_msgpack_makes_is_accepted(data):
    for buffer in (data, bytearray(data), memoryview(data)):
        assert chosen.scan(buffer, DEPTH) > (0, 0, 0)


@given(packed, st.binary(min_size=1, max_size=3))
def test_one_object_and_nothing_else(data, more):
    for size in {0, 1, 2, 3, 4, 5, 6, len(data) // 2, len(data) - 1} & set(range(len(data))):
        with pytest.raises(ValueError, match=r"^(truncated msgpack|msgpack declares more items)"):
            chosen.scan(data[:size], DEPTH)
    with pytest.raises(ValueError, match=rf"^{len(more)} bytes after the msgpack object$"):
        chosen.scan(data + more, DEPTH)


@each_kernel
def test_truncated_at_every_byte(kernel):
    everything = [None, -1, 200, -200, 2**40, 1.5, "a", "b" * 40, b"c" * 300, {"k": [{}, []]}]
    data = msgpack.packb([*everything, msgpack.ExtType(5, b"abc"), msgpack.Timestamp(1, 2)])
    kernel.scan(data, DEPTH)
    for size in range(len(data)):
        with pytest.raises(ValueError, match=r"^(truncated msgpack|msgpack declares more items)"):
            kernel.scan(data[:size], DEPTH)


@given(hostile, st.integers(0, 5))
@example(b"\xc1", 1)
def test_scanned_as_specified(data, depth):
    for max_depth in (depth, DEPTH):
        expected = verdict(specification.scan, data, max_depth)
        assert verdict(chosen.scan, data, max_depth) == expected


@given(hostile)
def test_what_msgpack_decodes_is_accepted(data):
    try:
        decode(data)
    except Exception:  # of many types, and msgpack is right in them
        return
    assert chosen.scan(data, DEPTH) > (0, 0, 0)


@given(st.one_of(hostile, st.sampled_from([b"\x91\xd6\xff" + bytes(4), b"\xa7__Set__"])))
@example(b"\x93\xc7\x00\xbd\x01\x02")
@example(b"\xc7\x0c\xff" + bytes(12))
@example(b"\x81\xa8__Enum__\xc3")
def test_what_may_be_replaced_is_found_on_the_way(data):
    found = verdict(chosen.scan, data, DEPTH)
    if isinstance(found, str):
        return
    assert chosen.tagged(data) or not found[2] & chosen.SPECIAL
    assert chosen.marked(data) or not found[2] & chosen.MARKED
    try:
        arrived = decode(data)
    except Exception:  # of many types, and msgpack is right in them
        return
    if not found[2] & chosen.SPECIAL:
        assert not any(type(item) is msgpack.Timestamp for item in leaves(arrived))


def leaves(obj):
    """Return what is in no container any more."""
    if isinstance(obj, dict):
        return [leaf for item in (*obj, *obj.values()) for leaf in leaves(item)]
    return [leaf for item in obj for leaf in leaves(item)] if isinstance(obj, list) else [obj]


@pytest.mark.parametrize("first", range(256))
def test_every_first_byte(first):
    """Followed by zeros and small numbers, it is accepted with the same length as msgpack."""
    for body in (bytes(33), b"\x01" * 33, b"\0\0\0\x01" * 8, b"\0\x01" * 16):
        accepted = []
        for size in range(len(body) + 1):
            data = bytes([first]) + body[:size]
            answer = verdict(specification.scan, data, DEPTH)
            assert verdict(chosen.scan, data, DEPTH) == answer
            if not isinstance(answer, str):
                accepted.append(data)
        unpacker = msgpack.Unpacker(strict_map_key=False, raw=True)
        unpacker.feed(bytes([first]) + body)
        try:
            unpacker.skip()
        except (ValueError, msgpack.OutOfData):
            assert accepted == []
        else:
            assert [len(data) for data in accepted] == [unpacker.tell()]


@each_kernel
@pytest.mark.parametrize("opening", [b"\x91", b"\x81\x01", b"\xdc\x00\x01", b"\xdf\0\0\0\x01\x01"])
def test_levels_are_counted(kernel, opening):
    for levels in (0, 1, 5, DEPTH):
        data = opening * levels + b"\xc0"
        kernel.scan(data, levels)
        kernel.scan(data.removesuffix(b"\xc0") + b"\x90", levels)  # an empty one is no level
        for allowed in {0, levels // 2, levels - 1} - {levels, -1}:
            match = f"^msgpack nested deeper than {allowed} levels$"
            with pytest.raises(ValueError, match=match):
                kernel.scan(data, allowed)
    with pytest.raises(ValueError, match=r"^msgpack nested deeper than 1024 levels$"):
        kernel.scan(opening * (DEPTH + 1) + b"\xc0", DEPTH)


@each_kernel
def test_levels_beside_each_other_do_not_add_up(kernel):
    kernel.scan(msgpack.packb([[[1], [2]], [[3], {"4": 5}]] * 10), 3)


@each_kernel
@pytest.mark.parametrize("depth", [-1, 1025, 2**31])
def test_a_depth_that_cannot_be_asked_for(kernel, depth):
    with pytest.raises(ValueError, match=f"^a depth of {depth}, expected from 0 to 1024$"):
        kernel.scan(b"\xc0", depth)


@each_kernel
@pytest.mark.parametrize(
    "data",
    [
        b"\xdd\xff\xff\xff\xff" + bytes(100),
        b"\xdf\xff\xff\xff\xff" + bytes(100),
        b"\xdf\x80\0\0\0" + bytes(100),  # whose items are 2**32
        b"\xdd\0\0\0\x65" + bytes(100),
        b"\xdf\0\0\0\x33" + bytes(100),
        b"\xdd\0\0\0\x60" + b"\xdd\0\0\0\x20" + bytes(120),  # each would fit, both do not
        b"".join(b"\xdd" + n.to_bytes(4, "big") for n in range(5000, 0, -5)),
        b"\x82\x01\x92\xc0\xc0\x01",
        b"\x91",
    ],
)
def test_containers_that_declare_more_than_there_is(kernel, data):
    with pytest.raises(ValueError, match=r"^msgpack declares more items than bytes are left$"):
        kernel.scan(data, DEPTH)


@each_kernel
@pytest.mark.parametrize("first", [0xC4, 0xC5, 0xC6, 0xC7, 0xC8, 0xC9, 0xD9, 0xDA, 0xDB])
def test_strings_longer_than_what_there_is(kernel, first):
    with pytest.raises(ValueError, match=r"^truncated msgpack$"):
        kernel.scan(bytes([first]) + b"\xff" * 200, DEPTH)


# -- and then msgpack takes little memory ----------------------------------------

AMPLE = 64 * KIB  # what decoding takes whatever the size


def check_memory(data):
    within(100 * len(data) + AMPLE, lambda: verdict(decode, data))


@given(hostile)
def test_what_was_accepted_decodes_in_little_memory(data):
    if not isinstance(verdict(specification.scan, data, DEPTH), str):
        check_memory(data)


@pytest.mark.parametrize(
    "item",
    [
        *[b"\x80", b"\x90", b"\x81\x01\x01", b"\x91\x90", b"\x91" * 500 + b"\x90", b"\xc0"],
        *[b"\xa0", b"\xa1a", b"\xa2\xc3\xa9", b"\xc4\x00", b"\xc4\x02ab", b"\xcd\xff\xff"],
        *[b"\xd4\x05a", b"\xd6\xff\0\0\0\1", b"\xc7\0\5", b"\x92\x80\x80", b"\x81\xa1a\x80"],
    ],
    ids=lambda item: item[:4].hex(),
)
def test_many_small_items_decode_in_little_memory(item):
    """Those that cost the most memory a byte; 16 MiB of them would be 1.6 GB at most."""
    count = 200 * KIB // len(item)
    data = b"\xdd" + count.to_bytes(4, "big") + item * count
    chosen.scan(data, DEPTH, 0, ANY)
    check_memory(data)


small = st.one_of(
    st.sampled_from([None, 0, -1, -20, 200, -200, 2**31, 1.5, "", "a", "é", "ab", "𝄞", b"", b"a"]),
    st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=3)),
)
costly = st.recursive(
    small,
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(small, inner, max_size=7)),
    max_leaves=12,
).map(msgpack.packb)


@given(
    st.lists(
        st.sampled_from([b"\x81\0", b"\x81\xe1", b"\x81\xa0", b"\x81\xa2ab", b"\x91"]), max_size=3
    ),
    st.integers(0, 100),
    costly,
)
@example([b"\x81\0"], 300, b"\xc0")
@example([b"\x81\0"], 60, msgpack.packb(["𝄞"] * 30))
def test_whatever_is_repeated_decodes_in_little_memory_or_is_refused(chain, length, end):
    item = b"".join(chain) * length + end
    count = 40 * KIB // len(item)
    data = b"\xdd" + count.to_bytes(4, "big") + item * count
    expected = verdict(specification.scan, data, DEPTH, 0, ANY)
    assert verdict(chosen.scan, data, DEPTH, 0, ANY) == expected
    if not isinstance(expected, str):
        check_memory(data)
    else:
        assert "in memory" in expected


# -- and hashing it takes little time ----------------------------------------------

TAG = b"\xc7\x00\xbd"
PADDING = b"\x92\xc5\x04\x00" + bytes(1024)  # a list of these bytes and of what follows
MOST_STEPS = specification.MOST_STEPS
NUMBER, OTHER = 1, 4  # what comparing a key takes, and an item in a key, besides its length
EXTENSION = specification.EXTENSION


def array(items):
    return b"\xdc" + len(items).to_bytes(2, "big") + b"".join(items)


def mapping(keys):
    return b"\xde" + len(keys).to_bytes(2, "big") + b"".join(key + b"\xc0" for key in keys)


def tagged(items, sort=b"\x02"):
    return array([TAG, sort, *items])


def pack_all(items):
    return [*map(msgpack.packb, items)]


def work(data):
    """Return the steps for making the items of a message that is not brief."""
    hashing = specification._add_steps(memoryview(data), 0, MOST_STEPS)
    return specification.scan(data, DEPTH)[0] - hashing


def steps(data, kernel=chosen, spent=0):
    """Return the steps for hashing, or why there may not be so many."""
    found = verdict(kernel.scan, PADDING + data, DEPTH, spent)
    return found if isinstance(found, str) else found[0] - work(PADDING + data)


sorts = st.one_of(st.integers(0, 10), st.sampled_from([200, 2.0])).map(msgpack.packb)
runs = st.builds(
    lambda start, count, gaps: pack_all(
        n for n in range(start, min(start + count, 2**64)) if (n - start) not in gaps
    ),
    st.sampled_from(
        [0, -40, -200, 120, 250, 2**16 - 3, 2**31 - 3, 2**32 - 3, 2**63 - 3, 2**64 - 9]
    ),
    st.integers(0, 20),
    st.sets(st.integers(0, 20), max_size=5),
)
hashed = st.recursive(
    scalars.map(msgpack.packb),
    lambda inner: st.builds(
        lambda make, before, items, sort: (
            tagged(before + items, sort) if make is tagged else make(before + items)
        ),
        st.sampled_from([array, mapping, tagged, tagged]),
        runs,
        st.lists(inner, max_size=8),
        sorts,
    ),
    max_leaves=20,
)


@given(st.one_of(hashed, hostile), st.integers(0, 30_000))
def test_steps_are_counted_as_specified(data, left):
    for spent in (0, MOST_STEPS - left):
        assert steps(data, chosen, spent) == steps(data, specification, spent)


@each_kernel
@pytest.mark.parametrize("make", [mapping, tagged])
def test_a_key_may_be_compared_with_all_before_it(kernel, make):
    pairs = 100 * 101 // 2
    tuples = [(-1, -2, n, "text") for n in range(100)]
    each = 5 * OTHER + len("text")
    for keys, expected in [
        ([n * 2**40 for n in range(100)], pairs * NUMBER),
        ([n * 1.5 for n in range(100)], pairs * NUMBER),
        (tuples, pairs * each),
        ([msgpack.Timestamp(2**40 + n) for n in range(100)], pairs * (OTHER + 13 + EXTENSION)),
        (["text", b"bytes", "ä" * 100] * 40, 0),
        ([*range(-100, 500)], NUMBER),
        ([*range(-100, 500), 7.5], NUMBER + 601),
        ([*range(50), *"text", *range(50, 100)], NUMBER),
        ([n * 3 // 2 for n in range(100)], NUMBER),
        ([0, 1, 2, 6, 7], NUMBER + 4 + 5),  # too far
        ([0, 1, 2, 2, 3], NUMBER + 4 + 5),  # not rising
        ([1, 0], NUMBER + 2),
    ]:
        assert steps(make(pack_all(keys)), kernel) == expected


@each_kernel
def test_an_item_of_a_set_in_a_key_is_compared_as_often_as_both(kernel):
    inner = tagged(pack_all(n * 2**40 for n in range(10)), b"\x03")
    once = OTHER + (OTHER + 1) + 55 * (OTHER + 8) - 8  # the first of the numbers is 0
    assert steps(mapping([inner]), kernel) == once
    assert steps(mapping([inner] * 30), kernel) == 30 * 31 // 2 * once
    assert steps(tagged([inner] * 30), kernel) == 30 * 31 // 2 * once
    assert steps(array([inner] * 30), kernel) == 30 * 55 * NUMBER  # beside each other


@each_kernel
@pytest.mark.parametrize("sort", [b"\xcc\x02", b"\xcd\0\3", msgpack.packb(2.0)])
def test_a_set_is_found_however_it_is_written(kernel, sort):
    items = pack_all(n * 2**40 for n in range(100))
    for tag in (TAG, b"\xc8\0\0\xbd", b"\xc9\0\0\0\0\xbd"):
        assert steps(array([tag, b"\3", *items]), kernel) == 5050
        assert steps(array([tag, sort, *items]), kernel) >= 5050
    assert steps(array([TAG, b"\1", *items]), kernel) == 0  # a tuple


@each_kernel
def test_the_steps_of_a_message_add_up(kernel):
    data = mapping(pack_all(n * 2**40 for n in range(100)))
    spent = MOST_STEPS - 5050 - work(PADDING + data)
    assert kernel.scan(PADDING + data, DEPTH, spent)[0] == MOST_STEPS
    with pytest.raises(ValueError, match=rf"^100 keys or items of sets .* than {MOST_STEPS} comp"):
        kernel.scan(PADDING + data, DEPTH, spent + 1)
    assert kernel.scan(b"\xc0", DEPTH, 7) == (7 + specification.READY, 0, 0)


# -- markers ---------------------------------------------------------------------

MARKERS = [b"__Serialized__", b"__Pickled__", b"__Set__", b"__Enum__"]
texts = st.lists(
    st.one_of(
        st.sampled_from(
            [*MARKERS, b"_", b"__", b"__Set_", b"__Enum", b"Pickled__", b"__Serialized"]
        ),
        st.binary(max_size=3),
    ),
    max_size=6,
).map(b"".join)


@given(texts)
def test_marked_as_specified(data):
    expected = any(marker in data for marker in MARKERS)
    for kernel in (chosen, specification):
        for buffer in (data, bytearray(data), memoryview(b"__Set" + data)[5:]):
            assert kernel.marked(buffer) is expected


@each_kernel
@pytest.mark.parametrize("marker", MARKERS)
def test_a_marker_is_found_at_any_place_and_only_whole(kernel, marker):
    for before in range(20):
        for after in range(20):
            assert kernel.marked(b"_" * before + marker + b"_" * after)
    for size in range(len(marker)):
        assert not kernel.marked(marker[:size])
        assert not kernel.marked(memoryview(marker)[:size])
