"""Sets of variants, in an order of which any beginning has some of each kind."""

from __future__ import annotations

from enum import StrEnum

from experiments.audit import attacks, drifts
from experiments.audit.variants import Variant, kinds_in_turn


class VariantSet(StrEnum):
    """Which variants.

    Those of the first study, those that came later, those whose model is only served in another
    way, or all of them.
    """

    ORIGINAL = "original"
    NEW = "new"
    SERVING = "serving"
    ALL = "all"


def variants_of(which: VariantSet, first: int | None = None) -> list[Variant]:
    """The variants of a set, one of each kind in turn, after the reference itself.

    Args:
        which: the set.
        first: keep so many of each kind; None keeps all.
    """
    untouched, *original = (*drifts.original(), *attacks.original())
    sets = {
        VariantSet.ORIGINAL: original,
        VariantSet.NEW: [*drifts.added(), *attacks.added()],
        VariantSet.SERVING: [*drifts.served(), *attacks.served()],
    }
    chosen = sets.get(which) or [variant for each in sets.values() for variant in each]
    return [untouched, *kinds_in_turn(chosen, first)]
