"""Tampered variants: attacks on a model's refusals, at strengths that do and do not remove them."""

from __future__ import annotations

from contextlib import nullcontext

from cna_lens.metrics import REFUSAL_OPENINGS
from experiments.audit.attacks.directions import erased_directions
from experiments.audit.attacks.evaders import trained_evaders
from experiments.audit.attacks.fine_tunes import fine_tuned_away
from experiments.audit.attacks.neurons import on_neurons
from experiments.audit.attacks.served import served_otherwise
from experiments.audit.attacks.set_back import some_set_back, weakened
from experiments.audit.attacks.vectors import added_vectors, erased_direction
from experiments.audit.variants import Variant, named


def tampered() -> tuple[Variant, ...]:
    """All variants whose model is tampered with."""
    return (*original(), *added())


def original() -> tuple[Variant, ...]:
    """The attacks of the first study."""
    changes = (on_neurons(), added_vectors(), erased_direction(), weakened())
    return tuple(variant for each in changes for variant in named(each, tampered=True))


def added() -> tuple[Variant, ...]:
    """The attacks that came later."""
    changes = (some_set_back(), erased_directions(), fine_tuned_away(), trained_evaders())
    return tuple(variant for each in changes for variant in named(each, tampered=True))


def served() -> tuple[Variant, ...]:
    """All variants whose model is as it was, and is served in a way that keeps it from refusing."""
    return tuple(
        Variant(name, kind, True, lambda bench: nullcontext(bench.model), served=serving)
        for name, kind, serving in served_otherwise(REFUSAL_OPENINGS)
    )
