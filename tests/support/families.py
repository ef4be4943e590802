"""The results of the checks for docs/models.md, which run once in a session."""

from functools import cache
from importlib.util import find_spec

from experiments.families import mixture_checks
from experiments.families.checks import outcome
from experiments.families.families import FAMILIES
from experiments.families.mixture_checks import TinyMixture
from experiments.families.tiny_models import tiny_model

TRANSFORMER_LENS_4 = find_spec("transformer_lens.HookedTransformer") is None
RUNNABLE = [f for f in FAMILIES if TRANSFORMER_LENS_4 or not f.needs_transformer_lens_4]

MAY_NOT_RUN = ("CodeGen",)
"""Families that may be refused.

Transformers 5.24 moved a buffer that TransformerLens 4.3 looks up on the attention.
"""


@cache
def found(family):
    return outcome(tiny_model(family))


@cache
def found_of_mixture(family):
    return mixture_checks.outcome(TinyMixture.of(family))
