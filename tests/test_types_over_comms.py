"""Registered types, and pandas, over real comms: between two of ours, and to and from Dask."""

import asyncio
import pickle
from array import array
from contextlib import asynccontextmanager
from unittest import mock

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse as sp
from loops import until
from peers import LOOPBACK, pair
from test_arrays import ARRAYS, SCALARS
from test_arrow_streams import TABLES
from test_buffers import BUFFERS
from test_masked_arrays import MASKED
from test_pandas import FRAMES
from test_sparse_matrices import DENSE, KINDS

import distributed_comm as dc

distributed = pytest.importorskip("distributed")
protocol = pytest.importorskip("distributed.protocol")

pytestmark = pytest.mark.filterwarnings("ignore:the matrix subclass")  # which Dask calls

SPARSE = {f"{k} {c}": getattr(sp, f"{k}_{c}")(DENSE) for k in KINDS for c in ("matrix", "array")}
GROUPS = {
    "arrays": ARRAYS,
    "scalars": {repr(scalar): scalar for scalar in SCALARS},
    "masked": MASKED,
    "arrow": TABLES | {"a buffer": pa.py_buffer(b"abc")},
    "sparse": SPARSE,
    "buffers": BUFFERS | {"numbers": array("d", [1.5, 2])},
    "pandas": FRAMES,
}


def picture(obj):
    """Return all that a user sees of an object, to be compared."""
    cls = type(obj)
    if isinstance(obj, np.ma.MaskedArray):
        return cls, obj.dtype, obj.shape, repr(obj.tolist()), repr(obj.fill_value), obj.hardmask
    if isinstance(obj, np.ndarray | np.generic):
        return cls, obj.dtype, obj.shape, repr(obj.tolist())
    if isinstance(obj, pa.Buffer):
        return cls, obj.to_pybytes()
    if isinstance(obj, pa.Table | pa.RecordBatch):
        return cls, obj.schema.to_string(), repr(obj.to_pydict())
    if sp.issparse(obj):
        return cls, obj.dtype, obj.shape, obj.toarray().tolist()
    if isinstance(obj, memoryview):
        return cls, obj.itemsize, obj.shape, obj.tobytes()
    if isinstance(obj, pd.DataFrame):
        columns = [(dtype, repr(obj.iloc[:, i].tolist())) for i, dtype in enumerate(obj.dtypes)]
        return cls, columns, picture(obj.index), picture(obj.columns)
    if isinstance(obj, pd.Series):
        return cls, obj.dtype, repr(obj.tolist()), picture(obj.index), obj.name
    if isinstance(obj, pd.Index):
        return cls, obj.dtype, repr(obj.tolist()), list(obj.names)
    return cls, obj


def numbered(group):
    return dict(enumerate(GROUPS[group].values()))


def pickled(obj):
    """Return what numpy's own pickles leave of an object: not each byte order and hard mask.

    Ours may be better.
    """
    buffers = []
    return pickle.loads(pickle.dumps(obj, 5, buffer_callback=buffers.append), buffers=buffers)


def as_it_is(obj):
    return obj


async def check(objects, wrap, write, read, expect=as_it_is):
    """Send all objects of a group in one message, and see that each arrives."""
    message = {number: wrap(obj) for number, obj in objects.items()}
    _, arrived = await asyncio.gather(write(message), read())
    assert arrived.keys() == objects.keys()
    for number, obj in objects.items():
        assert repr(picture(arrived[number])) in {repr(picture(obj)), repr(picture(expect(obj)))}


# memoryview and bytearray go as bytes where they are not wrapped
bare = [group for group in GROUPS if group != "buffers"]


@pytest.mark.parametrize("address", [LOOPBACK, "tcp://127.0.0.2:0", "inproc://"])
@pytest.mark.parametrize("group", GROUPS)
def test_between_two_of_ours(run, kernels, group, address):
    objects = numbered(group)

    async def main():
        async with pair(address, trusted=(True, True)) as (client, server):
            for wrap in (dc.Serialize, *[as_it_is] * (group in bare)):
                await check(objects, wrap, client.write, server.read)
                await check(objects, wrap, server.write, client.read)
            if group != "buffers":  # a memoryview has no pickle
                expect = as_it_is if address == "inproc://" else pickled
                await check(objects, dc.ToPickle, client.write, server.read, expect)

    run(main())


@pytest.mark.parametrize("group", [group for group in GROUPS if group != "pandas"])
def test_between_two_who_do_not_trust_each_other_without_any_pickle(run, kernels, group):
    objects = numbered(group)
    nothing = mock.patch.multiple("distributed_comm._serialize.pickles", dumps=refuse, loads=refuse)

    async def main():
        async with pair("tcp://127.0.0.2:0") as (client, server):
            for wrap in (dc.Serialize, *[as_it_is] * (group in bare)):
                with nothing:
                    await check(objects, wrap, client.write, server.read)

    run(main())


def refuse(*args, **kwargs):
    raise AssertionError("a pickle")


def test_pandas_is_refused_by_name_where_nobody_trusts(run):
    async def main():
        async with pair() as (client, server):
            for wrap in (dc.Serialize, dc.ToPickle, lambda x: x):
                for obj in (FRAMES["numbers"], FRAMES["text"]["x"]):
                    with pytest.raises(dc.UntrustedError, match=r"type pandas\..*can only be sent"):
                        await client.write({"x": wrap(obj)})
            await client.write("next")
            assert await server.read() == "next"

    run(main())


# -- with Dask --------------------------------------------------------------------------


@asynccontextmanager
async def with_dask(address):
    """Yield a comm of Dask's, and the comm of ours that serves it."""
    served = []
    async with dc.listen(address, served.append, trusted=True) as listener:
        theirs = await distributed.comm.connect(listener.contact_address)
        await until(lambda: served)
    try:
        yield theirs, served[0]
    finally:
        served[0].abort()
        theirs.abort()


def cannot(obj):
    """Whether Dask cannot send an object: memoryviews but of one dimension of bytes."""
    return type(obj) is memoryview and not (obj.format == "B" and obj.c_contiguous and obj.nbytes)


def by_dask(obj):
    """Return what Dask itself makes of an object."""
    return protocol.deserialize(*protocol.serialize(obj, on_error="raise"))


@pytest.mark.parametrize("address", [LOOPBACK, "tcp://127.0.0.2:0"])
@pytest.mark.parametrize("group", GROUPS)
def test_to_and_from_dask(run, group, address):
    objects = {number: obj for number, obj in numbered(group).items() if not cannot(obj)}

    async def main():
        async with with_dask(address) as (theirs, ours):
            await check(objects, dc.Serialize, ours.write, theirs.read, by_dask)
            await check(objects, protocol.to_serialize, theirs.write, ours.read, by_dask)
            if group != "buffers":
                await check(objects, dc.ToPickle, ours.write, theirs.read, pickled)
                await check(objects, protocol.ToPickle, theirs.write, ours.read, pickled)

    run(main())


@pytest.mark.parametrize("group", bare)
def test_bare_to_and_from_dask(run, group):
    """There everything is a pickle, but numpy.float64, which is a float."""
    objects = {n: obj for n, obj in numbered(group).items() if type(obj) is not np.float64}

    async def main():
        async with with_dask(LOOPBACK) as (theirs, ours):
            await check(objects, as_it_is, ours.write, theirs.read, pickled)
            await check(objects, as_it_is, theirs.write, ours.read, pickled)

    run(main())
