"""Score every neuron by a ranking, given by its name or as a value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from cna_lens.discovery.activations.means import ActivationStats
from cna_lens.discovery.activations.per_prompt import PromptActivations
from cna_lens.discovery.activations.reader import Reader
from cna_lens.discovery.activations.sets import encode_sets
from cna_lens.discovery.rankings.attribution_patching import AttributionPatching
from cna_lens.discovery.rankings.contrasts import (
    Contrast,
    OutputWeighted,
    RandomScores,
    Standardized,
)
from cna_lens.discovery.rankings.learned_mask import LearnedMask
from cna_lens.discovery.rankings.node_pruning import NodePruning
from cna_lens.discovery.rankings.perturbation_probing import PerturbationProbing
from cna_lens.discovery.rankings.probe import Probe
from cna_lens.discovery.rankings.protocol import Collected, Ranking, read_sets
from cna_lens.discovery.rankings.relp import RelP
from cna_lens.discovery.rankings.squared_attribution import SquaredAttribution
from cna_lens.errors import InputError
from cna_lens.models.hooked_model import HookedModel, check_model
from cna_lens.models.prompts.encoding import Chat, Prompt
from cna_lens.models.running.batching import BatchSize
from cna_lens.results.provenance import Position
from cna_lens.results.scores import NeuronScores

RANKINGS: Mapping[str, Ranking] = MappingProxyType(
    {
        ranking.name: ranking
        for ranking in (
            Contrast(),
            Standardized(),
            OutputWeighted(),
            Probe(),
            AttributionPatching(),
            RelP(),
            SquaredAttribution(),
            RandomScores(),
        )
    }
)
"""The rankings by name, with their default settings."""
BEST: Ranking = LearnedMask()
"""The ranking named "best": on the planted models for tuning, ablating the neurons that it puts
first ended the behaviour and changed other answers least. `SquaredAttribution` finds more of the
planted neurons themselves. For other behaviours than refusal: `LearnedMask(LogOdds(openings))`."""

BY_NAME_ALONE: tuple[Ranking, ...] = (BEST, NodePruning(), PerturbationProbing())
"""Rankings that have a name too, and are run only where they are asked for."""


def as_ranking(ranking: str | Ranking) -> Ranking:
    """Look up a ranking by its name, or `BEST` by "best"; return a ranking as it is.

    Raises:
        InputError: there is no ranking of that name.
    """
    named = {**RANKINGS, **{each.name: each for each in BY_NAME_ALONE}, "best": BEST}
    if isinstance(ranking, str) and ranking in named:
        return named[ranking]
    if isinstance(ranking, Ranking) and not isinstance(ranking, type):
        return ranking
    raise InputError(
        f"rank is {ranking!r}, expected one of: {', '.join(sorted(named))}; or a ranking such "
        "as AttributionPatching(...)"
    )


def rank(
    positive: ActivationStats | PromptActivations,
    negative: ActivationStats | PromptActivations,
    method: str | Ranking = "contrast",
) -> NeuronScores:
    """Score every neuron by statistics or activations that `collect` has gathered.

    >>> layout = Layout((2,))
    >>> positive = ActivationStats.of(torch.tensor([[1.0, 5.0]]), layout)
    >>> negative = ActivationStats.of(torch.tensor([[1.0, 2.0]]), layout)
    >>> rank(positive, negative).values.tolist()
    [0.0, 3.0]

    Args:
        positive: the result of `collect` on the positive prompts; with `keep="all"` for a probe.
        negative: the same for the negative prompts.
        method: a ranking, or the name of one.

    Raises:
        InputError: the method is unknown or needs the model (see `score_neurons`), or the sets are
            from different models, positions or templates.
    """
    ranking = as_ranking(method)
    if ranking.needs in ("weights", "gradients"):
        raise InputError(
            f"the ranking {ranking.name!r} needs the model; give the ranking to "
            "cna_lens.score_neurons(model, positive, negative, ...), or to cna_lens.find_circuit "
            "as rank"
        )
    kept = None
    if isinstance(positive, PromptActivations) and isinstance(negative, PromptActivations):
        kept = positive, negative
    plus, minus = (
        side.stats() if isinstance(side, PromptActivations) else side
        for side in (positive, negative)
    )
    return ranking.score(Collected(plus, minus, kept))


def score_neurons(
    model: HookedModel,
    positive: Sequence[Prompt],
    negative: Sequence[Prompt],
    ranking: str | Ranking = "contrast",
    *,
    position: Position = -1,
    chat: Chat = "auto",
    batch_size: BatchSize = "auto",
    progress: bool = False,
) -> NeuronScores:
    """Score every neuron of a model by a ranking.

    This is `find_circuit` without its last steps: no neuron is excluded, and all scores are kept.

    >>> score_neurons(tiny_model, [[5, 6]], [[7]], "output_weighted").values.shape
    torch.Size([48])

    Args:
        model: a TransformerBridge or HookedTransformer.
        positive: prompts that show the behaviour.
        negative: prompts that do not.
        ranking: a ranking, or the name of one.
        position: the token to read, as for `collect`.
        chat: put strings into the chat template.
        batch_size: prompts for each forward pass.
        progress: show a progress bar.

    Raises:
        InputError: an argument cannot be used.
        ModelError: the ranking does not support this kind of model.
        ActivationError: an activation is infinite or not a number.

    Warns:
        CnaLensWarning: a prompt stands in one set twice, or in both; or the ranking takes
            gradients of a first-token metric, and one first token is certain after all prompts.
    """
    chosen = as_ranking(ranking)
    check_model(model)
    sets = encode_sets(model, positive, negative, chat, position)
    chosen.check(model, len(sets.positive.ids), len(sets.negative.ids))
    reader = Reader(model, position, batch_size, progress)
    return chosen.score(read_sets(reader, chosen, *sets))
