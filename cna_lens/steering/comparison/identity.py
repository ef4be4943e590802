"""The identity of frozen values and functions, by which a resumed run knows them again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence, Set as AbstractSet
from dataclasses import fields, is_dataclass
from functools import partial
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

from torch import Tensor, nn

from cna_lens.errors import InputError
from cna_lens.steering.methods.sae.autoencoder import SparseAutoencoder


def fingerprint(value: object) -> str:
    """Hash a frozen value and all it holds, to tell it from a changed one.

    Raises:
        InputError: it holds an object that is known by its place in memory alone.
    """
    digest = hashlib.sha256()

    def leaf(kind: str, content: bytes) -> None:
        # With its length, so that no two lists of parts give the same bytes.
        digest.update(f"{kind} {len(content)} ".encode())
        digest.update(content)

    def add(part: object) -> None:
        if isinstance(part, Tensor):
            tensor = part.detach().cpu().contiguous()
            leaf(f"{tensor.dtype}{tuple(tensor.shape)}", tensor.double().numpy().tobytes())
        elif is_dataclass(part) and not isinstance(part, type):
            leaf("dataclass", type(part).__qualname__.encode())
            for field in fields(part):
                leaf("field", field.name.encode())
                add(getattr(part, field.name))
        elif isinstance(part, Mapping):
            add(list(part.items()))
        elif isinstance(part, AbstractSet):
            add(sorted(map(fingerprint, part)))
        elif isinstance(part, nn.Module):
            leaf("module", repr(part).encode())
            add(part.state_dict())
            if isinstance(part, SparseAutoencoder):
                metadata = getattr(part.cfg, "metadata", None)
                add(getattr(metadata, "hook_name", None))
                add(_settings(part.cfg))
        elif isinstance(part, Sequence) and not isinstance(part, str | bytes):
            leaf(type(part).__name__, str(len(part)).encode())
            for each in part:
                add(each)
        elif isinstance(part, CodeType):
            add((part.co_code, part.co_consts, part.co_names))
        elif isinstance(part, FunctionType | MethodType | partial):
            leaf("callable", of_callable(part).encode())
        elif type(part).__repr__ is object.__repr__:
            raise InputError(
                f"{part!r} cannot be known again in another run, since nothing tells its settings; "
                "make it a frozen dataclass"
            )
        else:
            leaf(type(part).__name__, repr(part).encode())

    add(value)
    return digest.hexdigest()[:16]


def _settings(config: object) -> object:
    """The settings of an autoencoder, but where it is and what else was noted about it."""
    if not hasattr(config, "__dict__"):
        return config
    return {k: value for k, value in vars(config).items() if k not in ("device", "metadata")}


def of_callable(function: Callable[..., Any], inside: frozenset[int] = frozenset()) -> str:
    """Name a function, with a hash of its code and of the values that it has taken in.

    cna_lens's own functions are known by their names. An object that is called is known by its
    fields if it is a dataclass, and by its class alone otherwise.

    Args:
        function: what is called.
        inside: the ids of functions that have taken it in; one of them is known by its name.
    """
    if isinstance(function, partial):
        arguments = fingerprint((function.args, function.keywords))
        return f"partial {of_callable(function.func, inside)} {arguments}"
    if isinstance(function, MethodType):
        return f"{of_callable(function.__func__, inside)} of {_of_object(function.__self__)}"
    if not isinstance(function, FunctionType):
        return _of_object(function)
    name = f"{function.__module__}.{function.__qualname__}"
    if name.startswith("cna_lens.") or id(function) in inside:
        return name
    taken_in = [_of_cell(cell, inside | {id(function)}) for cell in function.__closure__ or ()]
    parts = (function.__code__, function.__defaults__, function.__kwdefaults__, taken_in)
    return f"{name} {fingerprint(parts)}"


def _of_cell(cell: CellType, inside: frozenset[int]) -> str:
    """What a function has taken in, by its class alone where nothing else is known of it."""
    try:
        value = cell.cell_contents
    except ValueError:
        return "nothing yet"
    # Of a model's weights there is a hash elsewhere.
    if isinstance(value, nn.Module):
        return _of_object(value)
    if isinstance(value, FunctionType | MethodType | partial):
        return of_callable(value, inside)
    try:
        return fingerprint(value)
    except InputError:
        return _of_object(value)


def _of_object(value: object) -> str:
    if isinstance(value, type) or not is_dataclass(value):
        kind = value if isinstance(value, type) else type(value)
        return f"{kind.__module__}.{kind.__qualname__}"
    return f"{type(value).__module__}.{type(value).__qualname__} {fingerprint(value)}"
