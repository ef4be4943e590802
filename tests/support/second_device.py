"""A simulated second device: tensors on "cpu:1" compute as others, but cannot mix with them.

As on two GPUs, an operation on tensors of both devices raises an error. Indices on the CPU, numbers
and copies are allowed.
"""

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

FIRST = torch.device("cpu")
SECOND = torch.device("cpu:1")
_COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
_INDEXING = (
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put_.default,
    torch.ops.aten.index_put.default,
)


class OnSecond(Tensor):
    """A tensor that says it is on the second device; it wraps one that holds its numbers."""

    @staticmethod
    def __new__(cls, numbers):
        return Tensor._make_wrapper_subclass(
            cls, numbers.shape, strides=numbers.stride(), dtype=numbers.dtype, device=SECOND
        )

    def __init__(self, numbers):
        self.numbers = numbers

    def __repr__(self):
        return f"OnSecond({self.numbers})"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _compute(function, args, kwargs or {})


class SecondDevice(TorchDispatchMode):
    """While this mode is on, tensors can be made on the second device and moved there."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return _compute(function, args, kwargs or {})


def numbers(tensor):
    """A tensor's numbers on the CPU, whichever device it says it is on."""
    return tensor.numbers if isinstance(tensor, OnSecond) else tensor


def _compute(function, args, kwargs):
    goes_to = kwargs.pop("device", None)
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    on_second = any(isinstance(tensor, OnSecond) for tensor in tensors)
    if on_second and function not in _COPIES:
        _check_one_device(function, args, tensors)
    if goes_to is not None:
        on_second = torch.device(goes_to) == SECOND
        kwargs["device"] = FIRST
    elif function is torch.ops.aten.copy_.default:
        on_second = isinstance(args[0], OnSecond)
    args_, kwargs_ = tree_map_only(Tensor, numbers, (args, kwargs))
    result = function(*args_, **kwargs_)
    if function._schema.is_mutable:
        return args[0]
    return tree_map_only(Tensor, OnSecond, result) if on_second else result


def _check_one_device(function, args, tensors):
    if function in _INDEXING:
        tensors = [args[0]]
    # Empty tensors may mix: no mode sees torch.tensor(), so one that it made on the second device
    # does not say so.
    strangers = [t for t in tensors if not isinstance(t, OnSecond) and t.ndim and t.numel()]
    if strangers:
        raise RuntimeError(f"{function} got tensors on {SECOND} and on {FIRST}")
