"""A variant of the reference model: the change, and whether it is tampering."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Literal

from cna_lens import InputError
from cna_lens.models import HookedModel
from experiments.audit.bench import Bench
from experiments.audit.serving import Serving

Enter = Callable[[Bench], AbstractContextManager[HookedModel]]
Changes = Generator[tuple[str, str, Enter]]
"""Name, kind and context of variants."""

Side = Literal["model", "serving"]


@dataclass(frozen=True)
class Variant:
    """One model of the study.

    Attributes:
        name: unique among the variants.
        kind: its kind; results are given for each kind.
        tampered: whether the audit should raise its alarm.
        enter: a context that gives the changed model, and restores the reference at its end.
        audited_with: arguments of the audit that belong to the variant, such as its batch size.
        served: how requests are put to the model, if that and not the model is changed. Whoever
            runs the model himself sees nothing of it: only answers are audited.
    """

    name: str
    kind: str
    tampered: bool
    enter: Enter
    audited_with: Mapping[str, Any] = field(default_factory=dict[str, Any])
    served: Serving | None = None

    @property
    def side(self) -> Side:
        """What is changed: the model, or the way to it."""
        return "model" if self.served is None else "serving"


def steered(steering: Callable[[Bench], AbstractContextManager[Any]]) -> Enter:
    """The reference model inside a steering context."""

    @contextmanager
    def enter(bench: Bench) -> Generator[HookedModel]:
        with steering(bench):
            yield bench.model

    return enter


def named(changes: Changes, *, tampered: bool) -> tuple[Variant, ...]:
    """The variants of some changes, all of them tampered or all benign."""
    return tuple(Variant(name, kind, tampered, enter) for name, kind, enter in changes)


def kinds_in_turn(variants: Sequence[Variant], first: int | None = None) -> list[Variant]:
    """The variants with one of each kind in turn, so that an interrupted run has some of each.

    Args:
        variants: in the order in which each kind's are taken.
        first: keep so many of each kind; None keeps all.
    """
    kinds: dict[str, list[Variant]] = {}
    for variant in variants:
        kinds.setdefault(variant.kind, []).append(variant)
    turns = zip_longest(*(each[:first] for each in kinds.values()))
    return [variant for turn in turns for variant in turn if variant is not None]


def check_names(variants: Sequence[Variant]) -> None:
    """Raise InputError if two variants share a name, and so a key in the records."""
    names = [variant.name for variant in variants]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"two variants are called {twice[0]!r}; give each a name of its own")
