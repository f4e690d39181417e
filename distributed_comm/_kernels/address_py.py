"""Addresses to their parts and back, in pure Python: the specification of ``address_c``.

An address is a URI, ``scheme://location``. What a location may hold is its scheme's
business; the IP transports keep ``host:port`` there. Whatever would have to be guessed
or repaired is refused, and what was accepted comes back from the inverse unchanged.

The functions are the public ones of ``distributed_comm._addressing``, docstrings included.
The compiled twin takes its character classes from here, and leaves to these functions
whatever it does not accept: every exception is raised, and worded, in this file.
"""

import re
import reprlib

__all__ = [
    "normalize_address",
    "parse_address",
    "parse_host_port",
    "unparse_address",
    "unparse_host_port",
]

DEFAULT_SCHEME = "tcp"
MAX_PORT = 65535

# RFC 3986, section 3.1, and the '_' that entry point names may have. Case is kept: a scheme
# is looked up under the very name that its backend was registered with.
is_scheme = re.compile(r"[A-Za-z][A-Za-z0-9+.\-_]*").fullmatch
SCHEME_EXPECTED = "a scheme is a letter, then letters, digits, '+', '-', '.' or '_'"

# A name is whatever is printable, but for the "forbidden domain code points" of the WHATWG's
# URL standard: underscores, trailing dots and the letters of any script are the resolver's.
# Of IPv6, brackets and two colons tell an address from a mistake; the rest is the resolver's,
# too. A scope (RFC 4007, section 11) is the name of an interface.
NAME = r"[^ #%/:<>?@\[\\\]^|]"
IPV6 = r"[0-9A-Fa-f.]*:[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*"
is_host = re.compile(rf"{NAME}*|\[{IPV6}(?:%{NAME}+)?\]").fullmatch

# A hostile address may be of any length; what an exception shows of it is not.
_repr = reprlib.Repr()
_repr.maxstring = 120
shortened = _repr.repr


def parse_address(addr: str, strict: bool = False) -> tuple[str, str]:
    """Split an address into its scheme and its scheme-dependent location.

    Without a scheme it is a ``tcp`` address, or a ValueError if *strict*. A malformed scheme
    is a ValueError, too. Its case is kept, and the location is not looked at.

    >>> parse_address("tcp://127.0.0.1")
    ('tcp', '127.0.0.1')
    >>> parse_address("127.0.0.1:456")
    ('tcp', '127.0.0.1:456')
    """
    if not isinstance(addr, str):
        raise wrong_type("address", "a str", addr)
    scheme, separator, loc = addr.partition("://")
    if not separator:
        if strict:
            raise invalid(addr, "it has no scheme, expected one as in 'tcp://127.0.0.1:8786'")
        return DEFAULT_SCHEME, addr
    if not is_scheme(scheme):
        raise invalid(addr, SCHEME_EXPECTED)
    return scheme, loc


def unparse_address(scheme: str, loc: str) -> str:
    """Join a scheme and a location: the inverse of :func:`parse_address`.

    A malformed scheme is a ValueError.

    >>> unparse_address("tcp", "127.0.0.1")
    'tcp://127.0.0.1'
    """
    if not isinstance(scheme, str):
        raise wrong_type("scheme", "a str", scheme)
    if not isinstance(loc, str):
        raise wrong_type("location", "a str", loc)
    if not is_scheme(scheme):
        raise invalid(f"{scheme}://{loc}", SCHEME_EXPECTED)
    return f"{scheme}://{loc}"


def normalize_address(addr: str) -> str:
    """Return the address with a scheme, the default one where it has none.

    A malformed scheme is a ValueError.

    >>> normalize_address("tls://[::1]")
    'tls://[::1]'
    >>> normalize_address("[::1]")
    'tcp://[::1]'
    """
    scheme, loc = parse_address(addr)
    return f"{scheme}://{loc}"


def parse_host_port(
    address: str | tuple[str, int], default_port: int | None = None
) -> tuple[str, int]:
    """Split ``host:port``, with or without a scheme in front, into host and port.

    The host comes without the brackets of IPv6; an empty one is the wildcard. A tuple of
    host and port is only checked. A ValueError says what is malformed, or that there is
    neither a port nor a *default_port*.

    >>> parse_host_port("tcp://127.0.0.1:8786")
    ('127.0.0.1', 8786)
    >>> parse_host_port("[fe80::1%eth0]", default_port=0)
    ('fe80::1%eth0', 0)
    """
    port = None if default_port is None else check_port(default_port)
    if isinstance(address, tuple):
        if len(address) != 2:
            raise ValueError(f"expected a (host, port) tuple, not one of length {len(address)}")
        return unbracketed(bracketed(address[0])), check_port(address[1])
    if not isinstance(address, str):
        raise wrong_type("address", "a str or a (host, port) tuple", address)
    loc = parse_address(address)[1]
    host, colon, digits = loc.rpartition(":")
    if not colon or loc.endswith("]"):  # the last colon of "[::1]" is the host's own
        host, colon = loc, ""
    check_host(host, address)
    if colon:
        port = parse_port(digits, address)
    if port is None:
        raise ValueError(f"missing port in address {shortened(address)}: expected 'host:port'")
    return unbracketed(host), port


def unparse_host_port(host: str, port: int | None = None) -> str:
    """Join a host and a port: the inverse of :func:`parse_host_port`.

    An IPv6 host may have its brackets or not. What could not be parsed again is a ValueError.

    >>> unparse_host_port("::1", 8786)
    '[::1]:8786'
    >>> unparse_host_port("127.0.0.1")
    '127.0.0.1'
    """
    text = bracketed(host)
    return text if port is None else f"{text}:{check_port(port)}"


def bracketed(host: str) -> str:
    if not isinstance(host, str):
        raise wrong_type("host", "a str", host)
    text = f"[{host}]" if ":" in host and not host.startswith("[") else host
    check_host(text, host)
    return text


def unbracketed(host: str) -> str:
    return host[1:-1] if host.startswith("[") else host


def check_host(host: str, address: str) -> None:
    if is_host(host) and host.isprintable():
        return
    if host.startswith("["):
        raise invalid(address, "expected an IPv6 address in its brackets, as in '[::1]:8786'")
    if ":" in host:
        raise invalid(address, "':' in a host: IPv6 needs brackets, as in '[::1]:8786'")
    culprit = next(c for c in host if not (is_host(c) and c.isprintable()))
    raise invalid(address, f"{culprit!r} cannot be in a host")


def check_port(port: int) -> int:
    if not isinstance(port, int) or isinstance(port, bool):
        raise wrong_type("port", "an int", port)
    if not 0 <= port <= MAX_PORT:
        raise ValueError(f"port must be from 0 to {MAX_PORT}, not {shortened(port)}")
    return int(port)


def parse_port(digits: str, address: str) -> int:
    # int() alone would take "+80", "8_0", " 80" and the digits of every script.
    if digits.isascii() and digits.isdigit() and len(digits) <= 5:
        port = int(digits)
        if port <= MAX_PORT:
            return port
    raise invalid(address, f"expected a port from 0 to {MAX_PORT} after its last ':'")


def invalid(address: str, problem: str) -> ValueError:
    return ValueError(f"invalid address {shortened(address)}: {problem}")


def wrong_type(what: str, expected: str, value: object) -> TypeError:
    return TypeError(f"{what} must be {expected}, not {type(value).__name__}")
