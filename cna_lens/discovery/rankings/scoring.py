"""Score every neuron with a ranking, by its name or as a value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from cna_lens.discovery.activations.means import ActivationStats
from cna_lens.discovery.activations.per_prompt import PromptActivations
from cna_lens.discovery.activations.reader import Reader
from cna_lens.discovery.rankings.attribution_patching import AttributionPatching
from cna_lens.discovery.rankings.contrasts import (
    Contrast,
    OutputWeighted,
    RandomScores,
    Standardized,
)
from cna_lens.discovery.rankings.probe import Probe
from cna_lens.discovery.rankings.protocol import Collected, Ranking, read_sets
from cna_lens.discovery.rankings.relp import RelP
from cna_lens.errors import InputError
from cna_lens.models.hooked_model import HookedModel, check_model
from cna_lens.models.prompts.encoding import Chat, Prompt, encode
from cna_lens.models.running.batching import BatchSize
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
            RandomScores(),
        )
    }
)
"""The rankings that have a name, with their default settings."""


def as_ranking(ranking: str | Ranking) -> Ranking:
    """The ranking of a name, or the one that is given.

    Raises:
        InputError: there is no ranking of that name.
    """
    if isinstance(ranking, str) and ranking in RANKINGS:
        return RANKINGS[ranking]
    if isinstance(ranking, Ranking) and not isinstance(ranking, type):
        return ranking
    raise InputError(
        f"rank is {ranking!r}, expected one of: {', '.join(sorted(RANKINGS))}; or a ranking such "
        "as AttributionPatching(...)"
    )


def rank(
    positive: ActivationStats | PromptActivations,
    negative: ActivationStats | PromptActivations,
    method: str | Ranking = "contrast",
) -> NeuronScores:
    """Score every neuron by what was collected from the two sets.

    >>> layout = Layout((2,))
    >>> positive = ActivationStats.of(torch.tensor([[1.0, 5.0]]), layout)
    >>> negative = ActivationStats.of(torch.tensor([[1.0, 2.0]]), layout)
    >>> rank(positive, negative).values.tolist()
    [0.0, 3.0]

    Args:
        positive: what `collect` gave for the positive prompts; `keep="all"` for a probe.
        negative: the same for the negative ones.
        method: a ranking, or the name of one.

    Raises:
        InputError: an unknown method, one that needs the model (see `score_neurons`), or sets
            from different models, positions or templates.
    """
    ranking = as_ranking(method)
    if ranking.needs in ("weights", "gradients"):
        raise InputError(
            f"the ranking {ranking.name!r} needs the model too; use cna_lens.score_neurons or "
            f"cna_lens.find_circuit(model, positive, negative, rank={ranking.name!r})"
        )
    kept = (
        (positive, negative)
        if isinstance(positive, PromptActivations) and isinstance(negative, PromptActivations)
        else None
    )
    stats = [
        side.stats() if isinstance(side, PromptActivations) else side
        for side in (positive, negative)
    ]
    return ranking.score(Collected(stats[0], stats[1], kept))


def score_neurons(
    model: HookedModel,
    positive: Sequence[Prompt],
    negative: Sequence[Prompt],
    ranking: str | Ranking = "contrast",
    *,
    position: int = -1,
    chat: Chat = "auto",
    batch_size: BatchSize = "auto",
    progress: bool = False,
) -> NeuronScores:
    """Score every neuron of a model, by any ranking.

    What `find_circuit` does before it filters and takes the top.

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
        ModelError: the ranking does not know this kind of model.
    """
    chosen = as_ranking(ranking)
    check_model(model)
    with_behaviour = encode(model, positive, chat=chat, name="positive")
    without = encode(model, negative, chat=chat, name="negative")
    chosen.check(model, len(with_behaviour.ids), len(without.ids))
    reader = Reader(model, position, batch_size, progress)
    return chosen.score(read_sets(reader, chosen, with_behaviour, without))
