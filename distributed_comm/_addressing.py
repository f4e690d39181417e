"""A URI and its parts: scheme and location, host and port. Strings only, nothing is looked up.

These are the functions of the address kernel themselves, since a Python call around each
would cost more than the work in it. ``_kernels/address_py.py`` says what they do.
"""

from typing import TYPE_CHECKING

from ._kernels import address as kernel

__all__ = [
    "normalize_address",
    "parse_address",
    "parse_host_port",
    "unparse_address",
    "unparse_host_port",
]

if TYPE_CHECKING:  # a name that is only assigned has no declared type
    from ._kernels.address_py import (
        normalize_address,
        parse_address,
        parse_host_port,
        unparse_address,
        unparse_host_port,
    )
else:
    normalize_address = kernel.normalize_address
    parse_address = kernel.parse_address
    parse_host_port = kernel.parse_host_port
    unparse_address = kernel.unparse_address
    unparse_host_port = kernel.unparse_host_port

for _name in __all__:
    # A pickle names the function's module, and its reader may have the other kernel.
    getattr(kernel, _name).__module__ = __name__
