"""Dynamic activation patching: a base model that takes neurons from the model tuned from it.

The method has two parts. Its ranking is the change of activations between the two models, which is
`ChangeFromBase`. Its effect is measured here: before each token of an answer the tuned model reads
the prompt and the answer so far, and the base reads them too, with the activations of some neurons
at all tokens as they are in the tuned model (Chen et al., arXiv 2406.14144). What these
neurons write with stays as it is in the base.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean
from typing import Any, Final

import torch
from torch import Tensor

import cna_lens
from cna_lens import (
    ChangeFromBase,
    Circuit,
    InputError,
    LogOdds,
    RandomScores,
    SquaredAttribution,
)
from cna_lens.metrics import BEHAVIOURS, Behaviour
from cna_lens.models import (
    HookedModel,
    TokenIds,
    encode,
    forward_logits,
    hook_name,
    pad,
    pad_token_id,
    planting,
    prompt_lengths,
)
from cna_lens.results import NeuronScores

Hook = tuple[str, Callable[..., Any]]
MODELS: Final = ("planted/sums-138-three-0",)
"""Short prompts, and answers whose first words show the behaviour."""
N_PROMPTS: Final = 8
"""Positive evaluation prompts that are answered."""
N_RANKING: Final = 20
"""Discovery prompts of each kind that the rankings read."""
MAX_NEW_TOKENS: Final = 4
SHARE: Final = 0.05
"""The share of neurons that the paper patches."""


def figures() -> Iterator[dict[str, Any]]:
    r"""One row for each model, direction, ranking and number of neurons: the share of the effect.

    $$C = \frac{F(\text{patched}) - F(\text{to})}{F(\text{from}) - F(\text{to})}$$

    where F is how often the answers show the behaviour, and one model takes activations from the
    other: the base from the tuned model, as in the paper, and the tuned model from the base.

    Raises:
        InputError: both models show the behaviour equally often.
    """
    base = cna_lens.load_model("demo", device="cpu")
    for name in MODELS:
        behaviour = BEHAVIOURS[planting(name).behaviour or ""]
        tuned, truth = cna_lens.load_model(name, device="cpu"), cna_lens.planted_truth(name)
        asked = behaviour.evaluation.positive[:N_PROMPTS]

        def rate(
            model: HookedModel,
            source: Source | None = None,
            asked: Sequence[str] = asked,
            shown: Callable[[str], bool] = behaviour.shown,
        ) -> float:
            return fmean(map(shown, answers(model, asked, MAX_NEW_TOKENS, source)))

        models = {"base": base, "tuned": tuned}
        rates = {which: rate(model) for which, model in models.items()}
        if rates["base"] == rates["tuned"]:
            raise InputError(
                f"{name} and the untrained model both show the behaviour on {rates['base']:.0%} of "
                f"{len(asked)} prompts, expected a difference, which patching moves; name another "
                "model in MODELS, or raise N_PROMPTS"
            )
        found = _rankings(base, tuned, behaviour)
        circuits = [("planted", truth)]
        for k in (len(truth), round(SHARE * truth.layout.n_neurons)):
            circuits += [(ranking, scores.top(k=k)) for ranking, scores in found.items()]
        for to, other in (("base", "tuned"), ("tuned", "base")):
            for ranking, circuit in circuits:
                patched = rate(models[to], Source(models[other], circuit))
                yield {
                    "model": name,
                    "to": to,
                    "ranking": ranking,
                    "k": len(circuit),
                    "patched": patched,
                    "share": (patched - rates[to]) / (rates[other] - rates[to]),
                    **rates,
                    "n_prompts": len(asked),
                }


def _rankings(
    base: HookedModel, tuned: HookedModel, behaviour: Behaviour
) -> dict[str, NeuronScores]:
    sets, metric = behaviour.discovery, LogOdds(behaviour.openings)
    read = sets.positive[:N_RANKING], sets.negative[:N_RANKING]
    rankings = ChangeFromBase(base), SquaredAttribution(metric), RandomScores()
    return {ranking.name: cna_lens.score_neurons(tuned, *read, ranking) for ranking in rankings}


@dataclass
class Source:
    """A model that gives the activations of a circuit's neurons to another one.

    Attributes:
        model: where they are read.
        circuit: the neurons.
    """

    model: HookedModel
    circuit: Circuit
    seen: dict[int, Tensor] = field(default_factory=dict)

    def read(self, ids: Tensor, mask: Tensor) -> None:
        """Run the model, and keep the activations."""
        self.seen.clear()
        keep = [
            (hook_name(layer), partial(self._keep, layer=layer, at=at))
            for layer, at in self._places().items()
        ]
        with self.model.hooks(fwd_hooks=keep):
            _logits(self.model, ids, mask, ids.shape[1] - 1)

    def hooks(self) -> list[Hook]:
        """Hooks that set the neurons in another model to what was read last."""
        return [
            (hook_name(layer), partial(self._set, layer=layer, at=at))
            for layer, at in self._places().items()
        ]

    def _places(self) -> Mapping[int, list[int]]:
        places: dict[int, list[int]] = defaultdict(list)
        for neuron in self.circuit:
            places[neuron.layer].append(neuron.index)
        return places

    def _keep(self, value: Tensor, hook: Any, *, layer: int, at: list[int]) -> None:  # noqa: ARG002
        self.seen[layer] = value[..., at]

    def _set(self, value: Tensor, hook: Any, *, layer: int, at: list[int]) -> Tensor:  # noqa: ARG002
        changed = value.clone()
        changed[..., at] = self.seen[layer].to(value)
        return changed


def answers(
    model: HookedModel, prompts: Sequence[str], n_tokens: int, source: Source | None = None
) -> list[str]:
    """Greedy answers; all tokens pass the model again for each new one.

    Args:
        model: the model that answers.
        prompts: strings, put into the chat template.
        n_tokens: the length of an answer, at most.
        source: gives activations to the model before each token.
    """
    tokenizer: Any = model.tokenizer
    texts = [list(ids) for ids in encode(model, prompts).ids]
    begins, open_rows = [len(ids) for ids in texts], list(range(len(texts)))
    for _ in range(n_tokens):
        ids, mask = pad(_rows(texts, open_rows), pad_token_id(model))
        if source is not None:
            source.read(ids, mask)
        last = mask.sum(1) - 1
        first = int(last.min())
        with model.hooks(fwd_hooks=[] if source is None else source.hooks()):
            logits = _logits(model, ids, mask, first)
        new = logits[torch.arange(len(ids)), last - first].argmax(-1).tolist()
        for row, token in zip(open_rows, new, strict=True):
            texts[row].append(token)
        ends = tokenizer.eos_token_id
        open_rows = [row for row in open_rows if texts[row][-1] != ends]
        if not open_rows:
            break
    return [
        tokenizer.decode(ids[begin:], skip_special_tokens=True)
        for ids, begin in zip(texts, begins, strict=True)
    ]


def _rows(texts: Sequence[Sequence[int]], rows: Sequence[int]) -> list[TokenIds]:
    return [tuple(texts[row]) for row in rows]


def _logits(model: HookedModel, ids: Tensor, mask: Tensor, first: int) -> Tensor:
    with torch.no_grad(), prompt_lengths(mask.sum(1).tolist()):
        return forward_logits(model, ids, mask, None, first)
