"""The demo model: discovery, steering and generation beside the usual ways to do the same."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import torch
from transformers import AutoModelForCausalLM

import cna_lens
from cna_lens import audit
from cna_lens.models import HookedModel, TokenIds, encode, length_buckets, pad
from experiments.benchmarks.growth import growth
from experiments.benchmarks.timing import Measure, alternate, quantity, ratio, steered_generation

PLAIN_TOKENS = 1024
"""Tokens of a padded batch of the plain forward pass; 256 to 2048 were tried, this is fastest."""

NEW_TOKENS = 64

Universal = Literal["default"] | None


class CpuBench:
    """The measures on the demo model, by the names of their parts."""

    def __init__(self, repeats: int, out: Path) -> None:
        """Load the demo model and encode the prompts."""
        self.repeats = repeats
        self.out = out
        self.model: HookedModel = cna_lens.load_model("demo", device="cpu")
        prompts = cna_lens.prompt_set("refusal")
        self.positive, self.negative = prompts.positive, prompts.negative
        self.encoded = [
            *encode(self.model, self.positive).ids,
            *encode(self.model, self.negative).ids,
        ]
        evaluation = cna_lens.prompt_set("refusal_evaluation")
        self.questions = evaluation.positive[:30] + evaluation.negative[:30]

    @property
    def parts(self) -> dict[str, Callable[[], list[Measure]]]:
        """Every part, in the order in which they run."""
        return {
            "discovery": self.discovery,
            "packing": self.packing,
            "precision": self.precision,
            "memory": self.memory,
            "generation": self.generation,
            "evaluation": self.evaluation,
            "watching": self.watching,
            "growth": lambda: growth(self.repeats, self.out),
        }

    def find(
        self, model: HookedModel | None = None, universal: Universal = None
    ) -> cna_lens.Circuit:
        """Discovery as a user calls it, but without the diverse prompts, as in the other ways."""
        return cna_lens.find_circuit(
            model or self.model, self.positive, self.negative, universal=universal, progress=False
        )

    def discovery(self) -> list[Measure]:
        """Against one plain batched forward pass, and against the usual notebook idiom."""
        plain = AutoModelForCausalLM.from_pretrained(_folder()).eval()
        fast = alternate(
            {
                "discovery": self.find,
                "plain": lambda: _plain_forward(plain, self.encoded),
            },
            self.repeats,
        )
        slow = alternate(
            {
                "discovery": self.find,
                "one at a time": lambda: _one_at_a_time(self.model, self.encoded),
                "filtered": lambda: _one_at_a_time(self.model, self.encoded, _is_site),
            },
            max(1, self.repeats // 2),
        )
        return [
            ratio(
                "discovery / one plain batched forward pass (no LM head)",
                fast,
                "discovery",
                "plain",
                "at most 0.60, aim 0.45",
            ),
            ratio(
                "one prompt at a time with run_with_cache(ids) / discovery",
                slow,
                "one at a time",
                "discovery",
                "at least 8, aim 15",
            ),
            ratio(
                "the same with a names_filter for hook_post / discovery",
                slow,
                "filtered",
                "discovery",
                "",
            ),
        ]

    def packing(self) -> list[Measure]:
        """Prompts with a common beginning packed into one row, against one prompt in each row.

        The ratio is of processor time, which other work on the machine disturbs less.
        """

        def alone(universal: Universal) -> None:
            with patch("cna_lens.models.running.packing.WORTH_TRYING", 0):
                self.find(universal=universal)

        measures: list[Measure] = []
        for universal, words in ((None, "without the universal filter"), ("default", "with it")):
            times = alternate(
                {
                    "packed": partial(self.find, universal=universal),
                    "alone": partial(alone, universal),
                },
                self.repeats,
                clock=time.process_time,
            )
            name = f"discovery {words}: packed / alone, processor time"
            measures.append(ratio(name, times, "packed", "alone", "at most 0.90"))
        return measures

    def precision(self) -> list[Measure]:
        """How many neurons of the float32 circuit a half-precision model finds."""
        full = set(self.find())
        measures: list[Measure] = []
        for dtype in (torch.bfloat16, torch.float16):
            half = cna_lens.load_model("demo", device="cpu", dtype=dtype)
            same = len(full & set(self.find(half)))
            name = f"{str(dtype).removeprefix('torch.')}: neurons of the float32 circuit found"
            measures.append(quantity(name, same, f"of {len(full)}"))
        return measures

    def memory(self) -> list[Measure]:
        """Peak memory over the loaded model, each number of prompts in a process of its own."""
        peaks = {n: _peak_mib(n) for n in (200, 2000)}
        return [
            quantity("peak memory over the model, 200 prompts", peaks[200], "MiB", "aim 64"),
            quantity("peak memory over the model, 2000 prompts", peaks[2000], "MiB", "aim 64"),
            quantity(
                "peak memory, 2000 prompts / 200 prompts",
                peaks[2000] / peaks[200],
                "ratio",
                "at most 1.05",
            ),
        ]

    def generation(self) -> list[Measure]:
        """32 answers of 64 tokens: unsteered, steered by weights, by hooks."""
        return steered_generation(
            "generation",
            self.model,
            self.find(),
            lambda: self._answer(self.questions[:32]),
            self.repeats,
        )

    def watching(self) -> list[Measure]:
        """The same answers with the circuit watched, in processor time."""
        circuit = self.find()

        def watched() -> None:
            with audit.watch(self.model, circuit, on_alarm=lambda _: None):
                self._answer(self.questions[:32])

        times = alternate(
            {"unwatched": lambda: self._answer(self.questions[:32]), "watched": watched},
            self.repeats,
            clock=time.process_time,
        )
        pairs = zip(times["watched"], times["unwatched"], strict=True)
        tokens = 32 * NEW_TOKENS
        return [
            ratio("generation watched / unwatched", times, "watched", "unwatched", "at most 1.05"),
            quantity(
                "watch, for each generated token",
                [1e6 * (with_it - without) / tokens for with_it, without in pairs],
                "microseconds",
            ),
        ]

    def evaluation(self) -> list[Measure]:
        """60 prompts answered and classified, together and one by one."""
        times = alternate(
            {
                "one by one": lambda: [self._classify([each]) for each in self.questions],
                "batched": lambda: self._classify(self.questions),
            },
            repeats=1,
            warm_up=0,
        )
        return [
            ratio(
                "evaluation one by one / batched",
                times,
                "one by one",
                "batched",
                "at least 4, aim 8",
            )
        ]

    def _answer(self, prompts: Sequence[str]) -> list[str]:
        return cna_lens.generate(self.model, prompts, max_new_tokens=NEW_TOKENS)

    def _classify(self, prompts: Sequence[str]) -> list[bool]:
        return [cna_lens.is_refusal(answer) for answer in self._answer(prompts)]


def run(repeats: int, out: Path, only: Sequence[str] | None = None) -> list[Measure]:
    """The parts asked for, all by default."""
    bench = CpuBench(repeats, out)
    if unknown := set(only or ()) - set(bench.parts):
        raise SystemExit(f"no part {min(unknown)!r}; there are: {', '.join(bench.parts)}")
    return [
        measure
        for name, part in bench.parts.items()
        if not only or name in only
        for measure in part()
    ]


def _folder() -> Path:
    from cna_lens.models import demo_gguf, dequantised_folder

    return dequantised_folder(demo_gguf())


@torch.no_grad()
def _plain_forward(model: Any, encoded: Sequence[TokenIds]) -> None:
    """The Hugging Face model alone, without LM head, in length-sorted, padded batches."""
    for batch in length_buckets([len(ids) for ids in encoded], token_budget=PLAIN_TOKENS):
        ids, mask = pad([encoded[row] for row in batch], pad_id=0)
        model.model(ids, attention_mask=mask, use_cache=False)


def _is_site(name: str) -> bool:
    return name.endswith("mlp.hook_post")


@torch.no_grad()
def _one_at_a_time(
    model: Any, encoded: Sequence[TokenIds], names_filter: Callable[[str], bool] | None = None
) -> None:
    for ids in encoded:
        _, cache = model.run_with_cache(torch.tensor([ids]), names_filter=names_filter)
        for layer in range(model.cfg.n_layers):
            cache[f"blocks.{layer}.mlp.hook_post"][0, -1].clone()


def _peak_mib(prompts: int) -> float:
    command = [sys.executable, "-m", "experiments.benchmarks.peak_memory", str(prompts)]
    finished = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(finished.stdout.splitlines()[-1])["mib"])
