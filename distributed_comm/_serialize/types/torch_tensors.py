"""torch's tensors and parameters in Dask's frames: those of the CPU that numpy can hold.

The header has the one of an array, and the gradient's where there is one. What has hooks,
attributes of its own, or a layout or dtype that numpy does not know, goes as a pickle.
"""

from collections.abc import Iterator
from functools import partial
from importlib import import_module
from typing import Any

from ..._frames import Buffer
from ..gate import Gate
from ..type_registry import Registered, dask_header, type_name
from .buffers import show
from .numpy_arrays import unwrap_array, wrap_array

__all__ = ["registrations"]

Header = dict[str, Any]
FAULTS = (RuntimeError, TypeError, ValueError)


def _serialize(cls: Any, tensor: Any) -> tuple[Header, list[Buffer]]:
    if type(tensor) is not cls or vars(tensor) or tensor._backward_hooks:
        raise NotImplementedError(f"{type(tensor)} is a subclass of {cls}, or has more to it")
    header, frames = _wrap(tensor)
    header = {
        "sub-header": header,
        "requires_grad": tensor.requires_grad,
        "device": tensor.device.type,
    }
    if tensor.is_leaf and tensor.grad is not None:
        grad_header, grad_frames = _wrap(tensor.grad)
        header["grad"] = {"header": grad_header, "start": len(frames)}
        frames += grad_frames
    return header, frames


def _wrap(tensor: Any) -> tuple[Header, list[Buffer]]:
    """Return the header and frames of the tensor's memory as an array."""
    try:
        return wrap_array(tensor.detach().numpy())
    except FAULTS as exc:  # on a device, sparse, conjugated, quantized, bfloat16
        raise NotImplementedError(f"a tensor that is no array: {exc}") from exc


def _deserialize(torch: Any, header: Header, frames: list[Buffer], gate: Gate) -> Any:
    grad = _grad_entry(header)
    end = len(frames) if grad is None else grad["start"]
    wants_grad, device = header.get("requires_grad"), header.get("device")
    if type(wants_grad) is not bool or device != "cpu":
        raise ValueError(
            f"requires_grad is {show(wants_grad)} and device {show(device)}, "
            "expected a bool and 'cpu'"
        )
    tensor = _unwrap(torch, header.get("sub-header"), frames[:end], gate)
    gradient = None
    if grad is not None:
        gradient = _unwrap(torch, grad.get("header"), frames[end:], gate)
    try:
        if wants_grad:
            tensor.requires_grad_(True)
        tensor.grad = gradient
    except FAULTS as exc:
        raise ValueError(f"a tensor that cannot have this gradient: {exc}") from exc
    return tensor


def _grad_entry(header: Header) -> Header | None:
    grad = header.get("grad")
    if grad is not None and (type(grad) is not dict or type(grad.get("start")) is not int):
        raise ValueError(f"grad is {show(grad)}, expected a map with the start of its frames")
    return grad


def _unwrap(torch: Any, header: Any, frames: list[Buffer], gate: Gate) -> Any:
    """Return an array as a tensor in its memory, which a tensor may always write to."""
    array = unwrap_array(header, frames, gate)
    if not array.flags.writeable:
        if not gate.trusted:
            gate.make(array.nbytes, "a tensor that could not be written to")
        array = array.copy()
    try:
        return torch.from_numpy(array)
    except FAULTS as exc:
        raise ValueError(f"a tensor of {array.dtype.str}: {exc!s:.200}") from exc


# -- parameters, each a tensor in one more header -------------------------------------


def _serialize_parameter(
    tensors: Registered, cls: Any, parameter: Any
) -> tuple[Header, list[Buffer]]:
    header, frames = _serialize(cls, parameter)
    inner = dask_header(tensors, header)
    return {"sub-header": inner, "requires_grad": parameter.requires_grad}, frames


def _deserialize_parameter(
    cls: Any, tensors: Registered, header: Header, frames: list[Buffer], gate: Gate
) -> Any:
    wants_grad = header.get("requires_grad")
    if type(wants_grad) is not bool:
        raise ValueError(f"requires_grad is {show(wants_grad)}, expected a bool")
    tensor = tensors.deserialize(_tensor_header(header), frames, gate)
    try:
        parameter = cls(tensor.detach(), requires_grad=wants_grad)
        parameter.grad = tensor.grad
    except FAULTS as exc:
        raise ValueError(f"a parameter of {tensor.dtype}: {exc}") from exc
    return parameter


def _tensor_header(header: Header) -> Header:
    outer = header.get("sub-header")
    inner = outer.get("sub-header") if type(outer) is dict else None
    if type(inner) is not dict:
        raise ValueError(f"a parameter of {show(inner)}, expected the header of a tensor")
    return inner


def registrations() -> Iterator[Registered]:
    torch = import_module("torch")
    tensors = Registered(
        type_name(torch.Tensor),
        torch.Tensor,
        partial(_serialize, torch.Tensor),
        partial(_deserialize, torch),
    )
    yield tensors
    parameter = torch.nn.Parameter
    yield Registered(
        type_name(parameter),
        parameter,
        partial(_serialize_parameter, tensors, parameter),
        partial(_deserialize_parameter, parameter, tensors),
    )
