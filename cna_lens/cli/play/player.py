"""Answers of a loaded model to one prompt, without and with steering."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from cna_lens.cli.play.exchange import Exchange, Written
from cna_lens.cli.play.settings import SCOPES, Settings
from cna_lens.errors import InputError
from cna_lens.metrics.first_token import refusal_log_odds
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.inside.matching import check_circuit
from cna_lens.models.prompts.encoding import Prompt
from cna_lens.models.running.generation import stream
from cna_lens.results.circuit import Circuit
from cna_lens.steering.methods.caa import VectorAddition, caa
from cna_lens.steering.methods.controls import matched_random
from cna_lens.steering.scaling import steer


class Player:
    """Answers each prompt twice, and remembers neither prompts nor answers.

    Attributes:
        circuit: the whole circuit; the first `Settings.k` neurons of it are steered.
    """

    def __init__(
        self,
        model: HookedModel,
        circuit: Circuit,
        discovery: tuple[Sequence[Prompt], Sequence[Prompt]],
        *,
        allow_other_model: bool = False,
    ) -> None:
        """Take a model, a circuit of it, and positive and negative prompts for CAA's vectors.

        Raises:
            InputError: the circuit is empty.
            CircuitMismatchError: the circuit was found on another model.
        """
        if not len(circuit):
            raise InputError("the circuit has no neurons; there is nothing to steer")
        check_circuit(model, circuit, allow_other_model=allow_other_model)
        self.circuit = circuit
        self._model = model
        self._discovery = discovery
        self._allow_other_model = allow_other_model
        self._caa: VectorAddition | None = None

    def strongest(self, k: int) -> Circuit:
        """The circuit's k strongest neurons."""
        return replace(
            self.circuit, neurons=self.circuit.neurons[:k], scores=self.circuit.scores[:k]
        )

    def answer(self, prompt: str, settings: Settings) -> Generator[Exchange]:
        """Yield the exchange after each token, of the unsteered answer first.

        Close the generator if you leave it early: the model stays steered until the second answer
        ends.

        Raises:
            InputError: the prompt and the longest answer do not fit into the model's context.
        """
        exchange = Exchange(prompt, settings)
        for written in self._written(prompt, settings, nullcontext()):
            exchange = replace(exchange, unsteered=written)
            yield exchange
        for written in self._written(prompt, settings, self._steering(settings)):
            exchange = replace(exchange, steered=written)
            yield exchange

    def _written(
        self, prompt: str, settings: Settings, steering: AbstractContextManager[Any]
    ) -> Iterator[Written]:
        with steering:
            # First, so that a prompt that is too long raises before anything is shown.
            texts = stream(self._model, prompt, max_new_tokens=settings.length)
            (log_odds,) = refusal_log_odds(self._model, [prompt])
            written = Written(log_odds=log_odds)
            yield written
            for text in texts:
                written = replace(written, text=text)
                yield written
        yield replace(written, finished=True)

    def _steering(self, settings: Settings) -> AbstractContextManager[Any]:
        positions = SCOPES[settings.scope]
        if settings.method == "caa":
            method = replace(self._vectors(), positions=positions)
            return method.at(self._model, 1 - settings.multiplier)
        neurons = self.strongest(settings.k)
        if settings.method == "random":
            neurons = matched_random(neurons)
        return steer(
            self._model,
            neurons,
            settings.multiplier,
            positions=positions,
            allow_other_model=self._allow_other_model,
        )

    def _vectors(self) -> VectorAddition:
        """Return CAA's vectors, which are computed at the first call."""
        if self._caa is None:
            self._caa = caa(self._model, *self._discovery)
        return self._caa
