"""The chosen address kernel against its specification, on good and on hostile input."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distributed_comm._kernels import address as kernel
from distributed_comm._kernels import address_py as specification

from .feeding import peak_of_memory
from .twins import outcome

PIECES = [
    *["tcp", "://", "TLS+x://", "1a://", ":", "/", "[", "]", "%", "%eth0", "host", "my_host.", "é"],
    *["::1", "[::1]", "[fe80::1%eth0]", "127.0.0.1", ":80", ":65535", ":65536", ":+80", ":8_0"],
    *[":\uff18\uff10", ": 80", ":00080", ":000080"],
    *[" ", "\n", "\0", "\x7f", "\x80", "\ud800", "@", "?"],
]
texts = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=5).map("".join),
    st.text("tcp:/[]%.@-_+0189aFgé٣\0 ", max_size=12),
    st.text(),
)
ports = st.one_of(
    st.none(),
    st.integers(-2, 65538),
    st.integers(),
    st.sampled_from([True, "80", 80.0, 2**31, 2**32 + 80, 2**63, 2**64 + 80]),
)
values = st.one_of(texts, st.none(), st.integers(), st.binary())

ports_in_range = st.integers(0, 65535)
names = st.text(st.characters(exclude_characters=" #%/:<>?@[\\]^|").filter(str.isprintable))
ipv6 = st.ip_addresses(v=6).map(str)
hosts = st.one_of(names, ipv6, st.tuples(ipv6, names.filter(bool)).map("%".join))


def check(name, *args):
    expected = outcome(getattr(specification, name), *args)
    assert expected[0] in {str, tuple, ValueError, TypeError}
    for _ in range(2):  # the second time it may be remembered
        assert outcome(getattr(kernel, name), *args) == expected


@given(values, st.booleans())
def test_parse_address(addr, strict):
    check("parse_address", addr, strict)
    check("normalize_address", addr)


@given(values, values)
def test_unparse_address(scheme, loc):
    check("unparse_address", scheme, loc)


@given(st.one_of(values, st.tuples(values, ports), st.tuples(texts)), ports)
def test_parse_host_port(address, default_port):
    check("parse_host_port", address, default_port)


@given(values, ports)
def test_unparse_host_port(host, port):
    check("unparse_host_port", host, port)


@pytest.mark.parametrize("before", ["", "a", "a:", "[", "[::", "[::1%", "[::1]", "[::1]:", "tcp:"])
def test_every_character_in_every_place(before):
    for code in [*range(0x180), 0x0663, 0x2028, 0x3000, 0xD800, 0xFF10, 0x1F600]:
        for after in ("", "1", "1:80", "1]:80", "://a"):
            text = f"{before}{chr(code)}{after}"
            check("parse_address", text)
            check("parse_host_port", text, 80)
            check("unparse_host_port", text)
            check("unparse_address", text, "")


@given(texts)
def test_what_was_parsed_is_built_again(addr):
    try:
        parts = kernel.parse_address(addr)
    except ValueError:
        return
    assert kernel.unparse_address(*parts) == kernel.normalize_address(addr)
    assert kernel.parse_address(kernel.normalize_address(addr), strict=True) == parts


@given(hosts, ports_in_range)
def test_what_was_built_is_parsed_again(host, port):
    text = kernel.unparse_host_port(host, port)
    assert kernel.parse_host_port(text) == (host, port)
    assert kernel.parse_host_port(f"tls://{text}", 1) == (host, port)
    assert kernel.parse_host_port(kernel.unparse_host_port(host), port) == (host, port)
    assert kernel.parse_host_port((host, port)) == (host, port)


@given(texts, ports_in_range)
def test_what_was_accepted_comes_back_unchanged(text, port):
    try:
        parts = kernel.parse_host_port(text, port)
    except ValueError:
        return
    assert kernel.parse_host_port(kernel.unparse_host_port(*parts)) == parts


def test_usual_addresses_never_reach_the_twin(monkeypatch):
    """Handing over what is accepted would be correct, and slow."""
    monkeypatch.setattr(kernel, "twin", None, raising=False)
    assert kernel.unparse_host_port("[::1]", 80) == "[::1]:80"
    for host in ("", "127.0.0.1", "my-host_1.example.org", "::1", "fe80::1%eth0"):
        for port in (0, 8786, 65535):
            loc = kernel.unparse_host_port(host, port)
            addr = kernel.unparse_address("tls", loc)
            assert kernel.parse_address(addr) == ("tls", loc)
            assert kernel.normalize_address(addr) == addr
            assert kernel.normalize_address(loc) == f"tcp://{loc}"
            assert kernel.parse_host_port(addr) == (host, port)
            assert kernel.parse_host_port(kernel.unparse_host_port(host), port) == (host, port)


# -- what is remembered ------------------------------------------------------------


def test_many_addresses_are_kept_apart():
    """Each dies at once, so that the next may have its place in memory."""
    for n in range(5000):
        assert kernel.parse_address(f"tcp://{n}:1") == ("tcp", f"{n}:1")
        assert kernel.unparse_address("tcp", f"{n}:1") == f"tcp://{n}:1"
        assert kernel.parse_host_port(f"tcp://{n}:1") == (str(n), 1)
        assert kernel.unparse_host_port(f"{n}", n) == f"{n}:{n}"


def test_the_rest_of_the_arguments_counts():
    addr, loc, host = "tcp://host:1", "host:1", "host"
    for scheme in ("tcp", "tls", "tcp"):
        assert kernel.unparse_address(scheme, loc) == f"{scheme}://host:1"
    for port in (1, 2, None, 1):
        assert kernel.unparse_host_port(host, port) == (host if port is None else f"host:{port}")
    for port in (None, 0, 5):
        assert kernel.parse_host_port(addr, port) == ("host", 1)
    for port in (3, 4):
        assert kernel.parse_host_port(host, port) == ("host", port)
    with pytest.raises(ValueError, match="port must be from 0 to 65535"):
        kernel.parse_host_port(addr, 65536)
    with pytest.raises(ValueError, match="missing port"):
        kernel.parse_host_port(host)
    for _ in range(2):
        assert kernel.parse_address(host) == ("tcp", host)
        with pytest.raises(ValueError, match="it has no scheme"):
            kernel.parse_address(host, strict=True)


@pytest.mark.parametrize("size", [100, 100_000])
def test_little_is_remembered(size):
    """Of short addresses a few hundred, of long ones none."""
    with peak_of_memory() as peak:
        for n in range(20_000 if size < 1000 else 600):
            host = str(n).zfill(size)
            addr = kernel.unparse_address("tcp", kernel.unparse_host_port(host, n))
            assert kernel.parse_address(addr)[0] == "tcp"
            assert kernel.parse_host_port(addr) == (host, n)
    assert peak[0] < 2 * 1024 * 1024
