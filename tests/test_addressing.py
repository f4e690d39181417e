"""What the address functions accept and refuse, over both kernels."""

import inspect
import pickle

import pytest

from distributed_comm import _addressing as addressing
from distributed_comm._kernels import address_py

KERNELS = dict.fromkeys([addressing.kernel, address_py])  # one where only that is built


@pytest.fixture(params=KERNELS, ids=lambda k: k.__name__.rpartition(".")[2], autouse=True)
def kernel(request, monkeypatch):
    for name in addressing.__all__:
        monkeypatch.setattr(addressing, name, getattr(request.param, name))
    return request.param


@pytest.mark.parametrize(
    ("addr", "parts"),
    [
        ("tcp://127.0.0.1", ("tcp", "127.0.0.1")),
        ("tls://[::1]:8786", ("tls", "[::1]:8786")),
        ("inproc://10.0.0.1/1234/1", ("inproc", "10.0.0.1/1234/1")),
        ("unix:///run/a b/ü\0", ("unix", "/run/a b/ü\0")),
        ("tcp://", ("tcp", "")),
        ("a1+b-c.d_e://x", ("a1+b-c.d_e", "x")),
        ("TCP://x", ("TCP", "x")),  # case is kept
        ("a://b://c", ("a", "b://c")),  # the first separator counts
    ],
)
def test_address_with_a_scheme(addr, parts):
    assert addressing.parse_address(addr) == parts
    assert addressing.parse_address(addr, strict=True) == parts
    assert addressing.unparse_address(*parts) == addr
    assert addressing.normalize_address(addr) == addr


@pytest.mark.parametrize("addr", ["127.0.0.1:456", "[::1]", "", ":80", "tcp:/x", "höst", "a:b//c"])
def test_address_without_a_scheme(addr):
    assert addressing.parse_address(addr) == ("tcp", addr)
    assert addressing.normalize_address(addr) == f"tcp://{addr}"
    with pytest.raises(ValueError, match=r"has no scheme, expected one as in 'tcp://"):
        addressing.parse_address(addr, strict=True)


@pytest.mark.parametrize(
    "scheme",
    ["", "1tcp", "_tcp", "tc p", " tcp", "a/b", "a:b", "tcp\n", "tcp\0", "é", "tcp\u0661"],
)
def test_malformed_scheme(scheme):
    match = r"^invalid address '.*://x': a scheme is a letter, then letters"
    for strict in (False, True):
        with pytest.raises(ValueError, match=match):
            addressing.parse_address(f"{scheme}://x", strict)
    with pytest.raises(ValueError, match=match):
        addressing.normalize_address(f"{scheme}://x")
    with pytest.raises(ValueError, match=match):
        addressing.parse_host_port(f"{scheme}://x", 80)
    with pytest.raises(ValueError, match=match):
        addressing.unparse_address(scheme, "x")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:8786", ("127.0.0.1", 8786)),
        ("tcp://scheduler.example.org.:8786", ("scheduler.example.org.", 8786)),
        ("[::1]:80", ("::1", 80)),
        ("tls://[fe80::1%eth0]:0", ("fe80::1%eth0", 0)),
        ("[::ffff:1.2.3.4]:65535", ("::ffff:1.2.3.4", 65535)),
        ("my_host:00080", ("my_host", 80)),
        ("bücher.例え:80", ("bücher.例え", 80)),
        (":80", ("", 80)),
        ("tcp://0.0.0.0:0", ("0.0.0.0", 0)),
    ],
)
def test_host_and_port(address, expected):
    assert addressing.parse_host_port(address) == expected
    assert addressing.parse_host_port(address, 1234) == expected
    assert addressing.parse_host_port(expected) == expected
    assert addressing.parse_host_port(addressing.unparse_host_port(*expected)) == expected


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("", ""),
        ("tcp://", ""),
        ("localhost", "localhost"),
        ("tcp://höst", "höst"),
        ("[::]", "::"),
        ("tcp://[fe80::1%en-0.1]", "fe80::1%en-0.1"),
    ],
)
def test_default_port(address, host):
    for port in (0, 8786, 65535):
        assert addressing.parse_host_port(address, port) == (host, port)
    with pytest.raises(ValueError, match=r"^missing port in address '.*': expected 'host:port'$"):
        addressing.parse_host_port(address)


@pytest.mark.parametrize("host", ["localhost", "[::1]", "", "tcp://höst"])
@pytest.mark.parametrize(
    "port",
    [
        *["", "+80", "-1", "8_0", " 80", "80 ", "80\n", "80\0", "0x50", "8e1", "80.0", "http"],
        *["\uff18\uff10", "\u0668\u0660", "8\u00b2"],  # digits, but not ASCII ones
        *["65536", "99999", "000080", "1" * 5000, "80/x", "80/", "80?q", "80#f"],
    ],
)
def test_malformed_port(host, port):
    for default in (None, 80):
        with pytest.raises(ValueError, match=r"expected a port from 0 to 65535 after its last ':'"):
            addressing.parse_host_port(f"{host}:{port}", default)


@pytest.mark.parametrize(
    "host", ["::1", "::1:80", "fe80::1%eth0", "::abcd", "1.2.3.4:80:90", "a:b:c", "tcp://::"]
)
def test_ipv6_needs_brackets(host):
    with pytest.raises(ValueError, match=r"IPv6 needs brackets, as in '\[::1\]:8786'"):
        addressing.parse_host_port(host, 80)


@pytest.mark.parametrize(
    "host",
    [
        *["[]", "[1]", "[1:2]", "[::1", "[::g]", "[127.0.0.1]", "[host]", "[ ::1]", "[::\x001]"],
        *["[::1%]", "[::1%a%b]", "[::1%a b]", "[::1%a:b]", "[[::1]]", "[::1]]", "[::1]x"],
        "[::\uff11]",
    ],
)
def test_malformed_brackets(host):
    match = r"expected an IPv6 address in its brackets"
    for address in (host, f"{host}:80", f"tcp://{host}:80"):
        with pytest.raises(ValueError, match=match):
            addressing.parse_host_port(address, 80)
    with pytest.raises(ValueError, match=match):
        addressing.unparse_host_port(host, 80)


@pytest.mark.parametrize("character", " \t\r\n\0\x7f/@?#%[]\\<>^|\x85\xa0\u200b\u2028\u3000\ud800")
def test_characters_that_no_host_has(character):
    match = "cannot be in a host"
    for host in (f"a{character}", f"a{character}b", f"ü{character}b"):
        for address in (host, f"{host}:80", f"tcp://{host}:80", (host, 80)):
            with pytest.raises(ValueError, match=match):
                addressing.parse_host_port(address, 80)
        with pytest.raises(ValueError, match=match):
            addressing.unparse_host_port(host)


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("höst", "höst"),
        ("", ""),
        ("::1", "[::1]"),
        ("[::1]", "[::1]"),
        ("fe80::1%eth0", "[fe80::1%eth0]"),
    ],
)
def test_unparse_host_port(host, text):
    assert addressing.unparse_host_port(host) == text
    for port in (0, 80, 65535):
        assert addressing.unparse_host_port(host, port) == f"{text}:{port}"
        assert addressing.parse_host_port((host, port)) == (text.strip("[]"), port)


@pytest.mark.parametrize("port", [-1, 65536, 2**31, 2**63, 2**64 + 80, -(2**64)])
def test_port_out_of_range(port):
    match = "^port must be from 0 to 65535, not "
    with pytest.raises(ValueError, match=match):
        addressing.unparse_host_port("host", port)
    with pytest.raises(ValueError, match=match):
        addressing.parse_host_port(("host", port))
    with pytest.raises(ValueError, match=match):  # even where the default is not needed
        addressing.parse_host_port("host:80", port)


@pytest.mark.parametrize("port", [True, "80", 80.0, b"80"])
def test_port_of_a_wrong_type(port):
    match = f"^port must be an int, not {type(port).__name__}$"
    with pytest.raises(TypeError, match=match):
        addressing.unparse_host_port("host", port)
    with pytest.raises(TypeError, match=match):
        addressing.parse_host_port(("host", port))
    with pytest.raises(TypeError, match=match):
        addressing.parse_host_port("host:80", port)


@pytest.mark.parametrize("value", [None, b"tcp://x", 80, ["host", 80]])
def test_address_of_a_wrong_type(value):
    name = type(value).__name__
    for function in (addressing.parse_address, addressing.normalize_address):
        with pytest.raises(TypeError, match=f"^address must be a str, not {name}$"):
            function(value)
    with pytest.raises(TypeError, match=rf"^address must be a str or a \(.*\) tuple, not {name}$"):
        addressing.parse_host_port(value)
    with pytest.raises(TypeError, match=f"^scheme must be a str, not {name}$"):
        addressing.unparse_address(value, "x")
    with pytest.raises(TypeError, match=f"^location must be a str, not {name}$"):
        addressing.unparse_address("tcp", value)
    with pytest.raises(TypeError, match=f"^host must be a str, not {name}$"):
        addressing.unparse_host_port(value)


@pytest.mark.parametrize("pair", [(), ("host",), ("::1", 80, 0, 0)])
def test_tuple_of_a_wrong_length(pair):
    with pytest.raises(ValueError, match=rf"a \(host, port\) tuple, not one of length {len(pair)}"):
        addressing.parse_host_port(pair)


def test_what_an_exception_shows_of_an_address():
    with pytest.raises(ValueError, match=r"'a\\nb:80'"):  # as its repr: no line of a log is forged
        addressing.parse_host_port("a\nb:80")
    with pytest.raises(ValueError, match=r"'aaaa.*\.\.\..*aaaa:'") as caught:
        addressing.parse_host_port("a" * 1_000_000 + ":")
    assert len(str(caught.value)) < 250


def test_subclasses_of_str_and_int(kernel):
    class Text(str):
        __slots__ = ()

    class Number(int):
        pass

    assert addressing.parse_address(Text("tls://x")) == ("tls", "x")
    assert addressing.unparse_address(Text("tls"), Text("x")) == "tls://x"
    assert addressing.parse_host_port(Text("x:80")) == ("x", 80)
    assert addressing.unparse_host_port(Text("::1"), Number(80)) == "[::1]:80"


@pytest.mark.parametrize("name", addressing.__all__)
def test_functions_read_the_same_in_every_kernel(kernel, name):
    function, specified = getattr(kernel, name), getattr(address_py, name)
    assert function.__doc__ == specified.__doc__
    assert inspect.signature(function) == inspect.signature(specified)


@pytest.mark.parametrize("name", addressing.__all__)
def test_a_pickle_names_no_kernel(name, monkeypatch):
    monkeypatch.undo()
    function = getattr(addressing, name)
    assert b"kernels" not in pickle.dumps(function)
    assert pickle.loads(pickle.dumps(function)) is function
