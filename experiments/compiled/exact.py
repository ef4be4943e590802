"""Rankings of a compiled program's neurons, beside the exact effect of each of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

import cna_lens
from cna_lens import (
    RANKINGS,
    Circuit,
    LogitDifference,
    NeuronScores,
    Probe,
    Ranking,
    SquaredAttribution,
)
from cna_lens.discovery import Collected
from cna_lens.evidence import recovery
from cna_lens.models import COMPILED_PREFIX, CompiledProgram
from experiments.compiled.programs import PROGRAMS


@dataclass(frozen=True)
class ExactEffect(Ranking):
    """How much the logit of 1 minus that of 0 falls if one neuron has its mean on negative prompts.

    The neuron is changed at the last token of each positive prompt. This takes a forward pass for
    each neuron and prompt, and is what attribution patching approximates.
    """

    program: CompiledProgram
    name = "exact effect"
    needs = "weights"

    def score(self, collected: Collected) -> NeuronScores:
        """Ablate each neuron alone."""
        model, positive = collected.model, self.program.positive
        layout = self.program.layout
        whole = difference(model, self.program, positive)
        values = torch.zeros(layout.n_neurons, dtype=torch.float64)
        for place, neuron in enumerate(layout.neurons()):
            one = Circuit((neuron,), (1.0,), layout)
            with cna_lens.steer(model, one, values=collected.negative, positions="last_prompt"):
                values[place] = (whole - difference(model, self.program, positive)).mean()
        return collected.scored(self, values, "logits")


def difference(model: Any, program: CompiledProgram, prompts: Any) -> Float64[Tensor, " prompt"]:
    """The logit of an output of 1 minus that of 0 at each prompt's last token."""
    one, zero = (program.outputs.index(each) for each in ("1", "0"))
    with torch.no_grad():
        last = [model(torch.tensor([ids]))[0, -1].double() for ids in prompts]
    return torch.stack([each[one] - each[zero] for each in last])


def figures(name: str) -> Iterator[dict[str, Any]]:
    """One row for each ranking: what it finds, and what ablating its first neurons does."""
    program, truth = cna_lens.compiled_program(name), cna_lens.compiled_truth(name)
    model = cna_lens.load_model(name, device="cpu")
    parts = {
        direction: replace(truth, neurons=neurons, scores=(1.0,) * len(neurons))
        for direction in PROGRAMS[name.removeprefix(COMPILED_PREFIX)].variables
        if (neurons := program.writers(direction))
    }
    one, zero = (program.outputs.index(each) for each in ("1", "0"))
    metric = LogitDifference(target=one, foil=zero)
    # A hundredth of so few neurons is none, so the probe scores all of them. A program has no
    # tokenizer, and so no answers for squared attributions. RelP needs the normalisation and the
    # gated MLPs of Llama's architecture, which these programs do not have.
    settled = (Probe(fraction=1.0), SquaredAttribution(answer_tokens=0))
    known = {**RANKINGS, **{ranking.name: ranking for ranking in settled}}
    del known["relp"]
    for ranking in (*known.values(), ExactEffect(program)):
        if hasattr(ranking, "metric"):
            ranking = replace(ranking, metric=metric)
        scores = cna_lens.score_neurons(
            model, program.positive, program.negative, ranking, chat=False
        )
        found = recovery(scores, truth)
        chosen = scores.top(k=len(truth))
        yield {
            "program": name,
            "ranking": ranking.name,
            "k": len(truth),
            "n_neurons": truth.layout.n_neurons,
            **asdict(found.overall),
            "zero_scores": _zeros(scores, truth),
            "outputs_of_1": still_one(model, program, chosen),
            "outputs_of_1_without_causes": still_one(model, program, truth),
            "variables": {
                direction: {
                    "auroc": recovery(scores, part).overall.auroc,
                    "zero_scores": _zeros(scores, part),
                    "n": len(part),
                }
                for direction, part in parts.items()
            },
        }


def still_one(model: Any, program: CompiledProgram, circuit: Circuit) -> float:
    """The share of positive prompts whose output is still 1 with a circuit zeroed."""
    with cna_lens.steer(model, circuit, 0.0):
        return fmean((difference(model, program, program.positive) > 0).tolist())


def _zeros(scores: NeuronScores, circuit: Circuit) -> int:
    return int((scores.values[circuit.places] == 0).sum())
