"""A kernel and its specification side by side, as the tests of each kernel need them."""

import pytest


def each_of(chosen, specification):
    """Run a test over both as its argument `kernel`; once where only the second is built."""
    kernels = dict.fromkeys([chosen, specification])
    names = [kernel.__name__.rpartition("_")[2] for kernel in kernels]
    return pytest.mark.parametrize("kernel", kernels, ids=names)


def outcome(function, *args):
    """Return what a caller can tell apart: the result and its types, or the exception."""
    try:
        result = function(*args)
    except Exception as exc:
        return type(exc), str(exc)
    return type(result), repr(result)
