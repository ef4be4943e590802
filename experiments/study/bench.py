"""One loaded model, and the circuits and vectors found on it, each found once."""

from __future__ import annotations

from collections.abc import Callable, Sized
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

import cna_lens
from cna_lens import (
    ActivationStats,
    Circuit,
    InputError,
    NeuronPull,
    NeuronScaling,
    NeuronScores,
    PromptActivations,
    RandomScores,
    SteeringMethod,
    UniversalNeurons,
    VectorAddition,
)
from cna_lens.models import HookedModel, Positions
from cna_lens.results import Sign
from experiments.study.cells import Cell, Discovery, Steering
from experiments.study.settings import Study, Subject
from experiments.study.sources import Sources

Made = TypeVar("Made")


class Bench:
    """A model with the circuits and vectors that its cells share.

    Attributes:
        study: the settings.
        sources: where prompts come from.
        model: the loaded model.
        weights_sha256: the hash of its weights.
        folder: takes activations that do not fit into memory, and texts.
        keep_text: also write prompts and answers to files of their own.
        n_devices: number of GPUs to spread the model over; None for that of the settings.
        show: shows a text on the screen.
    """

    def __init__(
        self,
        study: Study,
        sources: Sources,
        subject: Subject,
        folder: Path,
        *,
        device: str | None = None,
        keep_text: bool = False,
        n_devices: int | None = None,
        show: Callable[[str], object] = print,
    ) -> None:
        """Load the model."""
        wanted = n_devices or subject.pair.devices or 1
        spread_over = {"n_devices": wanted} if wanted > 1 else {}
        self.study = study
        self.sources = sources
        self.folder = folder
        self.keep_text = keep_text
        self.show = show
        self.model: HookedModel = cna_lens.load_model(
            sources.locate(subject.source),
            device=device,
            dtype=getattr(torch, subject.pair.dtype),
            **spread_over,
        )
        self.weights_sha256 = cna_lens.weights_hash(self.model)
        self._made: dict[Any, Any] = {}

    def steered(self, cell: Cell) -> AbstractContextManager[Any]:
        """The context in which the model is steered as the cell says."""
        if cell.steering.method == "unsteered" or not cell.strength:
            return nullcontext()
        return self.method(cell.steering, cell.seed).at(self.model, cell.strength)

    def method(self, steering: Steering, seed: int = 0) -> SteeringMethod:
        """The steering method, with its circuit or vectors found."""
        return self._once(("method", steering, seed), lambda: self._method(steering, seed))

    def circuit(self, found: Discovery, seed: int = 0) -> Circuit:
        """The circuit, or its control."""
        return self._once(("circuit", found, seed), lambda: self._circuit(found, seed))

    def activations(self, found: Discovery, folder: Path) -> tuple[PromptActivations, ...]:
        """Every prompt's activations, positive and negative, kept in files in `folder`."""
        chosen = cna_lens.prompt_set(found.prompts)
        return tuple(
            cna_lens.collect(
                self.model, side, keep="all", folder=folder / name, chat=found.template
            )
            for name, side in (("positive", chosen.positive), ("negative", chosen.negative))
        )

    def universal(self, found: Discovery) -> UniversalNeurons:
        """The universal neurons, on prompts in the template or without it."""
        return self._once(
            ("universal", found.chat),
            lambda: cna_lens.universal_neurons(self.model, chat=found.template),
        )

    def _method(self, steering: Steering, seed: int) -> SteeringMethod:
        found = steering.discovery
        if found is None:
            raise InputError(f"the steering {steering.method!r} needs a discovery")
        positions = cast("Positions", steering.positions)
        prompts = cna_lens.prompt_set(found.prompts)
        if steering.method == "caa":
            vectors = cna_lens.difference_of_means(
                self.model,
                prompts.positive,
                prompts.negative,
                site="hook_mlp_out",
                chat=found.template,
            )
            sign = "add" if steering.caa_sign == "add" else "subtract"
            return VectorAddition(vectors, sign=sign, positions=positions)
        circuit = self.circuit(found, seed)
        if steering.method == "scale":
            return NeuronScaling(circuit, steering.multiplier, positions)
        means = self._stats(found, prompts.negative)
        pull = cna_lens.mean_ablation(circuit, means, positions=positions)
        return cast("NeuronPull", pull)

    def _circuit(self, found: Discovery, seed: int) -> Circuit:
        scores = self._scores(found, seed)
        sign = cast("Sign", found.sign)
        if found.universal == "before":
            scores = cna_lens.filter_universal(scores, self.universal(found))
        circuit = scores.top(found.fraction, found.k, sign=sign)
        if found.universal == "after":
            circuit = cna_lens.filter_universal(circuit, self.universal(found))
            check_not_empty(circuit)
        if found.control is None:
            return circuit
        stats = None
        if found.control == "magnitude":
            prompts = cna_lens.prompt_set(found.prompts)
            stats = self._stats(found, (*prompts.positive, *prompts.negative))
        return cna_lens.matched_random(circuit, seed, match=found.control, stats=stats)

    def _scores(self, found: Discovery, seed: int) -> NeuronScores:
        # Only a random ranking depends on the seed; others are scored once for all seeds.
        seed = seed if found.ranking == "random" else 0

        def score() -> NeuronScores:
            prompts = cna_lens.prompt_set(found.prompts)
            return cna_lens.score_neurons(
                self.model,
                prompts.positive,
                prompts.negative,
                RandomScores(seed) if found.ranking == "random" else found.ranking,
                chat=found.template,
            )

        return self._once(("scores", found.prompts, found.ranking, found.chat, seed), score)

    def _stats(self, found: Discovery, prompts: tuple[str, ...]) -> ActivationStats:
        return self._once(
            ("stats", prompts, found.chat),
            lambda: cna_lens.collect(self.model, prompts, chat=found.template),
        )

    def _once(self, key: Any, make: Callable[[], Made]) -> Made:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


def check_not_empty(circuit: Sized) -> None:
    """Raise InputError if all neurons of the circuit were universal."""
    if not len(circuit):
        raise InputError(
            "every neuron of the circuit is universal, and none is left; set universal_filter to "
            "'before', or take a larger fraction"
        )
