"""torch's tensors and parameters: whole, to and from Dask, and from strangers."""

from contextlib import suppress

import numpy as np
import pytest
from gates import gate_of
from hypothesis import given, settings
from hypothesis import strategies as st
from typed import carry, damage, from_dask, taken, there_and_back, to_dask
from unpickling import no_unpickling

from distributed_comm._serialize.type_registry import find, find_named
from distributed_comm.errors import UntrustedError

torch = pytest.importorskip("torch")


def with_grad():
    tensor = torch.arange(3.0, requires_grad=True)
    (2 * tensor).sum().backward()
    return tensor


TENSORS = {
    "floats": torch.arange(6.0).reshape(2, 3),
    "transposed": torch.arange(6).reshape(2, 3).T,
    "every second": torch.arange(10, dtype=torch.int16)[::2],
    "expanded": torch.arange(3).expand(4, 3),
    "0-d": torch.tensor(2.5),
    "empty": torch.zeros(0, 3),
    "bools": torch.tensor([True, False]),
    "halves": torch.ones(3, dtype=torch.float16),
    "complex": torch.tensor([1 + 2j]),
    "differentiable": torch.ones(3, requires_grad=True),
    "differentiated": with_grad(),
    "computed": 2 * torch.ones(3, requires_grad=True),
    "parameter": torch.nn.Parameter(torch.ones(2, 2)),
    "constant parameter": torch.nn.Parameter(torch.ones(2), requires_grad=False),
}


def same(a, b):
    assert type(a) is type(b)
    assert (a.dtype, a.shape, a.requires_grad) == (b.dtype, b.shape, b.requires_grad)
    assert torch.equal(a, b)
    return True


# Dask gives torch memory that cannot be written to, and asks for the gradient of any tensor.
@pytest.mark.filterwarnings("ignore:The .grad attribute")
@pytest.mark.parametrize("way", [there_and_back, to_dask, from_dask])
@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_arrives_as_it_was(way, name):
    tensor = TENSORS[name]
    # what Dask repeats, and we do not, is for the trusted
    arrived = from_dask(tensor, False) if (way, name) == (from_dask, "expanded") else way(tensor)
    assert same(arrived, tensor)
    if tensor.is_leaf:
        assert (arrived.grad is None) == (tensor.grad is None)
        assert tensor.grad is None or same(arrived.grad, tensor.grad)


def test_a_parameter_keeps_its_gradient():
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.full((2,), 3.0)
    assert same(there_and_back(parameter).grad, parameter.grad)
    assert same(to_dask(parameter), parameter)


def test_no_memory_is_copied():
    tensor = torch.arange(1000)
    header, frames = find(torch.Tensor).serialize(tensor)
    assert np.shares_memory(np.frombuffer(frames[0], "u1"), tensor.numpy())
    header, frames = carry(header, frames)
    arrived = find(torch.Tensor).deserialize(header, frames, gate_of(stranger=True))
    assert np.shares_memory(np.frombuffer(frames[0], "u1"), arrived.numpy())


@pytest.mark.parametrize("memory", [bytes, bytearray])
def test_a_tensor_can_always_be_written_to(memory):
    arrived = there_and_back(torch.zeros(3), memory)
    arrived += 1
    assert arrived.tolist() == [1, 1, 1]


class Mine(torch.Tensor):
    pass


def hooked():
    tensor = torch.ones(3, requires_grad=True)
    tensor.register_hook(lambda grad: grad)
    return tensor


def named():
    tensor = torch.ones(3)
    tensor.label = "mine"
    return tensor


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.ones(3, dtype=torch.bfloat16),
        lambda: torch.eye(3).to_sparse(),
        lambda: torch.tensor([1 + 2j]).conj(),
        lambda: torch.ones(3, device="meta"),
        lambda: torch.ones(3).as_subclass(Mine),
        hooked,
        named,
    ],
)
def test_what_is_more_than_an_array_is_left_to_pickle(make):
    assert not taken(make())


WRONG = [
    {"requires_grad": None},
    {"device": "cuda"},
    {"device": None},
    {"sub-header": None},
    {"sub-header": {}},
    {"sub-header": {"type": "builtins.eval", "sub-header": {}}},
    {"grad": 1},
    {"grad": {"start": None}},
    {"grad": {"start": 0, "header": None}},
    {"grad": {"start": 1, "header": {}}},
]


@pytest.mark.parametrize("change", WRONG, ids=repr)
def test_a_wrong_header_is_a_value_error(change):
    reader = find(torch.Tensor)
    header, frames = carry(*reader.serialize(torch.ones(3)))
    with pytest.raises(ValueError, match=r"."):
        reader.deserialize(header | change, frames, gate_of(stranger=True))
    with pytest.raises(ValueError, match=r"."):
        find(torch.nn.Parameter).deserialize(header | change, frames, gate_of(stranger=True))


@pytest.mark.parametrize("array", [np.array(["a"]), np.zeros(2, "M8[s]"), np.zeros(2, ">i4")])
def test_an_array_that_is_no_tensor_is_a_value_error(array):
    reader = find(torch.Tensor)
    header, _ = carry(*reader.serialize(torch.ones(3)))
    inner, frames = carry(*find(np.ndarray).serialize(array))
    header["sub-header"]["sub-header"] = inner
    with pytest.raises(ValueError, match="a tensor of"):
        reader.deserialize(header, frames, gate_of(stranger=True))
    header, frames = carry(*reader.serialize(torch.arange(3)))
    with pytest.raises(ValueError, match="cannot have this gradient"):
        reader.deserialize(header | {"requires_grad": True}, frames, gate_of(stranger=True))


def test_pickles_are_not_for_strangers():
    for name in ("torch.Tensor", "torch.nn.parameter.Parameter"):
        reader = find_named(name)
        tensor = with_grad() if name == "torch.Tensor" else torch.nn.Parameter(torch.ones(2))
        header, frames = carry(*reader.serialize(tensor))
        inner = header if name == "torch.Tensor" else header["sub-header"]["sub-header"]
        inner["sub-header"]["sub-header"]["pickle"] = True
        with no_unpickling(), pytest.raises(UntrustedError, match="holds a pickle"):
            reader.deserialize(header, frames, gate_of(stranger=True))
    header, frames = carry(*find(torch.Tensor).serialize(with_grad()))
    header["grad"]["header"]["sub-header"]["dtype"] = (1, b"")
    with no_unpickling(), pytest.raises(UntrustedError, match="holds a pickle"):
        find(torch.Tensor).deserialize(header, frames, gate_of(stranger=True))


def test_what_repeats_is_written_out_and_no_stranger_may_send_it():
    tensor = torch.ones(1).expand(1000)
    header, frames = carry(*find(torch.Tensor).serialize(tensor))
    assert [len(frame) for frame in frames] == [4000]
    header["sub-header"]["sub-header"] |= {"broadcast_to": (1000,), "strides": (0,), "shape": (1,)}
    with pytest.raises(UntrustedError, match="repeats 4 bytes until they are 4000"):
        find(torch.Tensor).deserialize(header, [bytes(4)], gate_of(stranger=True))


@settings(max_examples=60)
@given(
    path=st.lists(st.integers(0, 20), min_size=1, max_size=7),
    value=st.one_of(
        st.none(), st.booleans(), st.integers(-2, 9), st.text(max_size=3), st.just({}), st.just(())
    ),
)
@pytest.mark.parametrize("name", ["differentiated", "parameter"])
def test_a_damaged_header_gives_a_tensor_or_a_value_error(name, path, value):
    reader = find(type(TENSORS[name]))
    header, frames = carry(*reader.serialize(TENSORS[name]))
    header = damage(header, path, value)
    with no_unpickling(), suppress(ValueError, UntrustedError):
        reader.deserialize(header, frames, gate_of(stranger=True))
