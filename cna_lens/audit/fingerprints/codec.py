"""Tensors in a JSON file: type and shape in plain text, numbers as little-endian base64."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

# safetensors would put its own header before the numbers, and so change the bytes of the files.
_TYPES: Mapping[str, torch.dtype] = {
    "<f4": torch.float32,
    "<f8": torch.float64,
    "<i8": torch.int64,
}


def packed(tensor: Tensor) -> dict[str, Any]:
    """Convert a tensor to plain data; `unpacked` restores it bit for bit.

    >>> packed(torch.tensor([1.0, 2.0]))
    {'dtype': '<f4', 'shape': [2], 'base64': 'AACAPwAAAEA='}

    Raises:
        KeyError: the type is not float32, float64 or int64.
    """
    kind = {dtype: name for name, dtype in _TYPES.items()}[tensor.dtype]
    content = tensor.detach().cpu().contiguous().numpy().astype(kind).tobytes()
    return {
        "dtype": kind,
        "shape": list(tensor.shape),
        "base64": base64.b64encode(content).decode(),
    }


def unpacked(record: Mapping[str, Any]) -> Tensor:
    """Restore the tensor from the data that `packed` gives.

    Raises:
        ValueError: the data do not describe a tensor.
    """
    try:
        dtype = _TYPES[record["dtype"]]
        content = base64.b64decode(record["base64"], validate=True)
        values = np.frombuffer(content, dtype=cast("str", record["dtype"]))
        values = values.reshape(record["shape"])
        return torch.from_numpy(values.astype(values.dtype.newbyteorder("="))).to(dtype)
    except (KeyError, TypeError, binascii.Error) as error:
        raise ValueError(f"the data do not describe a tensor: {error!r}") from error
