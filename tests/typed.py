"""Objects through their registered types: between two of us, and to and from Dask's own code."""

import pytest
from gates import gate_of
from msgpack import packb, unpackb

from distributed_comm._serialize.type_registry import dask_header, find, find_named

protocol = pytest.importorskip("distributed.protocol")


def carry(header, frames, memory=bytearray):
    """Return a header and frames as they arrive; each frame in memory of its own."""
    return unpackb(packb(header), use_list=False), [memory(frame) for frame in frames]


def taken(obj):
    """Return whether a registered type takes the object; otherwise it goes as a pickle."""
    registered = find(type(obj))
    try:
        return registered is not None and bool(registered.serialize(obj))
    except NotImplementedError:
        return False


def there_and_back(obj, memory=bytearray, stranger=True):
    """Send an object to one of us, who does not trust the sender unless ``stranger=False``."""
    registered = find(type(obj))
    header, frames = carry(*registered.serialize(obj), memory)
    return find_named(registered.name).deserialize(header, frames, gate_of(stranger))


def to_dask(obj):
    """Let Dask read what we write."""
    registered = find(type(obj))
    header, frames = registered.serialize(obj)
    header, frames = carry(dask_header(registered, header), frames)
    return protocol.deserialize(header, frames)


def from_dask(obj, stranger=True):
    """Read what Dask writes."""
    header, frames = carry(*protocol.serialize(obj, serializers=("dask",), on_error="raise"))
    return find_named(header["type"]).deserialize(header["sub-header"], frames, gate_of(stranger))


def damage(obj, path, value):
    """Return a header with a part of it replaced, which a list of numbers leads to."""
    if not path:
        return value
    if isinstance(obj, tuple) and obj:
        index = path[0] % len(obj)
        return (*obj[:index], damage(obj[index], path[1:], value), *obj[index + 1 :])
    if isinstance(obj, dict) and obj:
        key = sorted(obj, key=str)[path[0] % len(obj)]
        return obj | {key: damage(obj[key], path[1:], value)}
    return value
