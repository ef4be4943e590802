"""Discovery on a GPU: random weights in the shapes of Llama 3.1; time depends on shape alone."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch

import cna_lens
from cna_lens.models import HookedModel
from experiments.benchmarks.timing import (
    Measure,
    alternate,
    quantity,
    ratio,
    seconds,
    steered_generation,
)
from experiments.shared.random_models import chunks, find_in_halves, random_llama, random_prompts


@dataclass(frozen=True)
class Shape:
    """The shape of a Llama."""

    name: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int = 128_256

    @property
    def block_parameters(self) -> int:
        """Weights of one block, without the norms."""
        head = self.hidden_size // self.num_attention_heads
        attention = 2 * self.hidden_size * (self.hidden_size + head * self.num_key_value_heads)
        return attention + 3 * self.hidden_size * self.intermediate_size

    @property
    def embedding_parameters(self) -> int:
        """Weights of the embedding and the LM head."""
        return 2 * self.vocab_size * self.hidden_size


EIGHT = Shape("8B", 4096, 14336, 32, 32, 8)
SEVENTY = Shape("70B", 8192, 28672, 80, 64, 8)
WORKSPACE = 16 * 2**30
"""Bytes left free when the largest number of layers that fits is made."""


@dataclass(frozen=True)
class Bench:
    """One run of the benchmark; the documentation reports the defaults.

    Attributes:
        device: the device; "cpu" is for trying the benchmark with small shapes.
        repeats: counted runs of each side.
        prompts: positive and negative prompts together.
        tokens: tokens of each prompt.
        shared: length of the prompts' common beginning.
        new_tokens: tokens of an answer.
    """

    device: Literal["cuda", "cpu"] = "cuda"
    repeats: int = 5
    prompts: int = 200
    tokens: int = 60
    shared: int = 24
    new_tokens: int = 64

    def run(self, eight: Shape = EIGHT, seventy: Shape = SEVENTY) -> list[Measure]:
        """All measures."""
        if self.device == "cuda" and not torch.cuda.is_available():
            raise SystemExit(
                "there is no CUDA GPU; python -m experiments.benchmarks cpu needs none"
            )
        rate = self._matrix_rate()
        model = self._llama(eight)
        measures = [
            quantity("bfloat16 matrix product", rate / 1e12, "TFLOP/s"),
            *self._discovery(model, eight, rate),
            *self._generation(model, eight),
        ]
        del model
        self._free()
        return measures + self._linear_in_layers(seventy)

    def _llama(self, shape: Shape) -> HookedModel:
        return random_llama(
            f"random-llama-{shape.name}",
            device=self.device,
            dtype=torch.bfloat16,
            hidden_size=shape.hidden_size,
            intermediate_size=shape.intermediate_size,
            num_hidden_layers=shape.num_hidden_layers,
            num_attention_heads=shape.num_attention_heads,
            num_key_value_heads=shape.num_key_value_heads,
            vocab_size=shape.vocab_size,
            max_position_embeddings=8192,
        )

    def _free(self) -> None:
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def _matrix_rate(self) -> float:
        n = 8192 if self.device == "cuda" else 512
        a, b = (torch.randn(n, n, device=self.device, dtype=torch.bfloat16) for _ in range(2))
        times = [seconds(lambda: a @ b) for _ in range(13)]
        return 2 * n**3 / statistics.median(times[3:])

    def _prompts(self, shape: Shape) -> list[list[int]]:
        return random_prompts(self.prompts, self.tokens, self.shared, shape.vocab_size)

    def _plain(self, model: Any, prompts: Sequence[list[int]], skip: int) -> None:
        """The trunk alone, without LM head and hooks, from the token `skip` on."""
        with torch.no_grad():
            for rows in chunks([ids[skip:] for ids in prompts], self.prompts):
                model.original_model.model(torch.tensor(rows, device=self.device), use_cache=False)

    def _one_at_a_time(self, model: Any, prompts: Sequence[list[int]]) -> None:
        """The usual notebook idiom."""
        with torch.no_grad():
            for ids in prompts:
                model.run_with_cache(
                    torch.tensor([ids], device=self.device),
                    names_filter=lambda name: name.endswith("mlp.hook_post"),
                )

    def _discovery(self, model: HookedModel, shape: Shape, rate: float) -> list[Measure]:
        prompts = self._prompts(shape)
        times = alternate(
            {
                "discovery": lambda: find_in_halves(model, prompts),
                "plain, not shared": lambda: self._plain(model, prompts, self.shared),
                "plain, all": lambda: self._plain(model, prompts, 0),
                "one at a time": lambda: self._one_at_a_time(model, prompts),
            },
            self.repeats,
        )
        computed = (self.tokens - self.shared) * self.prompts + self.shared
        flops = 2 * shape.block_parameters * shape.num_hidden_layers * computed
        shares = [flops / spent / rate for spent in times["discovery"]]
        name = f"{shape.name}: discovery"
        return [
            ratio(
                f"{name} / plain forward over the tokens that are not shared",
                times,
                "discovery",
                "plain, not shared",
                "at most 1.15",
            ),
            ratio(f"{name} / plain forward over all tokens", times, "discovery", "plain, all", ""),
            ratio(
                f"{shape.name}: one prompt at a time / discovery",
                times,
                "one at a time",
                "discovery",
                "at least 20",
            ),
            quantity(f"{name}, share of the measured matrix rate", shares, "share"),
        ]

    def _generation(self, model: HookedModel, shape: Shape) -> list[Measure]:
        prompts = self._prompts(shape)[:32]
        circuit = find_in_halves(model, prompts)

        def answer() -> None:
            cna_lens.generate(model, prompts, max_new_tokens=self.new_tokens)

        name = f"{shape.name}: generation"
        return steered_generation(name, model, circuit, answer, self.repeats)

    def _linear_in_layers(self, shape: Shape) -> list[Measure]:
        """Times with the largest number of layers that fits and half of it, and their line."""
        most = min(shape.num_hidden_layers, self._layers_that_fit(shape))
        half = most // 2
        seconds_of = {n: self._seconds_with(shape, n) for n in (half, most)}
        slope = (seconds_of[most] - seconds_of[half]) / (most - half)
        whole = seconds_of[half] + slope * (shape.num_hidden_layers - half)
        weights = 2 * (
            shape.num_hidden_layers * shape.block_parameters + shape.embedding_parameters
        )
        name = f"{shape.name}: discovery with"
        return [
            quantity(f"{name} {half} layers", seconds_of[half], "s"),
            quantity(f"{name} {most} layers", seconds_of[most], "s"),
            quantity(
                f"{name} all {shape.num_hidden_layers} layers, extrapolated linearly", whole, "s"
            ),
            quantity(f"{shape.name}: weights in bfloat16, computed", weights / 2**30, "GiB"),
        ]

    def _layers_that_fit(self, shape: Shape) -> int:
        if self.device != "cuda":
            return shape.num_hidden_layers
        free = torch.cuda.mem_get_info()[0] - WORKSPACE - 2 * shape.embedding_parameters
        return int(free // (2 * shape.block_parameters))

    def _seconds_with(self, shape: Shape, layers: int) -> float:
        run = partial(
            find_in_halves,
            self._llama(replace(shape, num_hidden_layers=layers)),
            self._prompts(shape),
        )
        times = alternate({"discovery": run}, self.repeats)
        del run
        self._free()
        return statistics.median(times["discovery"])
