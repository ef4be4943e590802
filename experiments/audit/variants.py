"""A variant of the reference model: the change, and whether it is tampering."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from cna_lens import InputError
from cna_lens.models import HookedModel
from experiments.audit.bench import Bench

Enter = Callable[[Bench], AbstractContextManager[HookedModel]]


@dataclass(frozen=True)
class Variant:
    """One model of the study.

    Attributes:
        name: unique among the variants.
        kind: its kind; results are given for each kind.
        tampered: whether the audit should raise its alarm.
        enter: a context that gives the changed model, and restores the reference at its end.
        audited_with: arguments of the audit that belong to the variant, such as its batch size.
    """

    name: str
    kind: str
    tampered: bool
    enter: Enter
    audited_with: Mapping[str, Any] = field(default_factory=dict[str, Any])


def steered(steering: Callable[[Bench], AbstractContextManager[Any]]) -> Enter:
    """The reference model inside a steering context."""

    @contextmanager
    def enter(bench: Bench) -> Generator[HookedModel]:
        with steering(bench):
            yield bench.model

    return enter


def check_names(variants: Sequence[Variant]) -> None:
    """Raise InputError if two variants share a name, and so a key in the records."""
    names = [variant.name for variant in variants]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"two variants are called {twice[0]!r}; give each a name of its own")
