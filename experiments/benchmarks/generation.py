"""Answers beside plain Hugging Face's `generate`: the same weights, prompts and tokens."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import cna_lens
from cna_lens.models import demo_gguf, dequantised_folder
from cna_lens.steering import Via
from experiments.benchmarks.timing import Measure, alternate, quantity, ratio

NEW_TOKENS = 64
SIZES = (8, 32, 128)
LONGER = 4
"""Every fourth prompt asks several questions at once, so that lengths are mixed."""

GOALS = {
    "unsteered": "at most 1, aim 0.7",
    "by weights": "at most 1, aim 0.7",
    "by hooks": "at most 1.15",
}


class GenerationBench:
    """The demo model in TransformerLens's bridge, and once more as a plain Hugging Face model."""

    def __init__(
        self, repeats: int, sizes: Sequence[int] = SIZES, new_tokens: int = NEW_TOKENS
    ) -> None:
        """Load the model twice, and find a circuit to steer."""
        self.repeats = repeats
        self.sizes = sizes
        self.new_tokens = new_tokens
        self.model: Any = cna_lens.load_model("demo", device="cpu")
        folder = dequantised_folder(demo_gguf())
        self.plain: Any = AutoModelForCausalLM.from_pretrained(
            folder, attn_implementation="sdpa"
        ).eval()
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, padding_side="left")
        prompts = cna_lens.prompt_set("refusal")
        self.circuit = cna_lens.find_circuit(
            self.model, prompts.positive[:20], prompts.negative[:20], universal=None, progress=False
        )

    def run(self) -> list[Measure]:
        """Every size, with answers that end where they end, and with all of full length."""
        measures: list[Measure] = []
        for size in self.sizes:
            prompts = mixed_prompts(size)
            measures += self._compare(f"{size} prompts", prompts)
            with self._never_ending():
                measures += self._compare(
                    f"{size} prompts, all of {self.new_tokens} tokens", prompts
                )
        return measures

    def _compare(self, name: str, prompts: Sequence[str]) -> list[Measure]:
        runs: dict[str, Callable[[], list[str]]] = {
            "plain": lambda: self._plain_answers(prompts),
            "unsteered": lambda: self._answers(prompts),
            "by weights": partial(self._steered_answers, prompts, "weights"),
            "by hooks": partial(self._steered_answers, prompts, "hooks"),
        }
        said = {way: run() for way, run in runs.items()}
        times = alternate(runs, self.repeats, warm_up=0)
        return [
            *(
                ratio(f"{name}: {way} / plain Hugging Face", times, way, "plain", goal)
                for way, goal in GOALS.items()
            ),
            _equal(f"{name}: answers as of plain Hugging Face", said["unsteered"], said["plain"]),
            _equal(f"{name}: answers by hooks as by weights", said["by hooks"], said["by weights"]),
        ]

    def _answers(self, prompts: Sequence[str]) -> list[str]:
        return cna_lens.generate(self.model, prompts, max_new_tokens=self.new_tokens)

    def _steered_answers(self, prompts: Sequence[str], via: Via) -> list[str]:
        # Answers at 0.5 are as long as unsteered ones, so that times can be compared.
        with cna_lens.steer(self.model, self.circuit, 0.5, via=via):
            return self._answers(prompts)

    def _plain_answers(self, prompts: Sequence[str]) -> list[str]:
        chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
        encoded = self.tokenizer.apply_chat_template(
            chats,
            add_generation_prompt=True,
            padding=True,
            return_dict=True,
            return_tensors="pt",
        )
        with torch.inference_mode():
            answers = self.plain.generate(
                **encoded, max_new_tokens=self.new_tokens, do_sample=False
            )
        new = answers[:, encoded["input_ids"].shape[1] :]
        return self.tokenizer.batch_decode(new, skip_special_tokens=True)

    @contextmanager
    def _never_ending(self) -> Generator[None]:
        """Forbid both models the tokens that end an answer."""
        configs = [self.plain.generation_config, self.model.original_model.generation_config]
        ends = [self.tokenizer.eos_token_id]
        for config in configs:
            config.suppress_tokens = ends
        try:
            yield
        finally:
            for config in configs:
                config.suppress_tokens = None


def mixed_prompts(count: int) -> list[str]:
    """Questions of the packaged sets; every fourth asks two to five of them at once.

    >>> lengths = sorted(len(prompt) for prompt in mixed_prompts(8))
    >>> len(lengths), lengths[-1] > 2 * lengths[0]
    (8, True)
    """
    sets = cna_lens.prompt_set("refusal_evaluation"), cna_lens.prompt_set("refusal")
    questions = [
        question
        for each in sets
        for pair in zip(each.negative, each.positive, strict=False)
        for question in pair
    ]
    return [
        " ".join(questions[place : place + 2 + place // LONGER % 4])
        if place % LONGER == LONGER - 1
        else questions[place]
        for place in range(count)
    ]


def _equal(name: str, found: Sequence[str], expected: Sequence[str]) -> Measure:
    same = sum(a == b for a, b in zip(found, expected, strict=True))
    return quantity(name, same, f"of {len(expected)}", f"{len(expected)}")


def run(repeats: int, sizes: Sequence[int] = SIZES) -> list[Measure]:
    """All measures."""
    return GenerationBench(repeats, sizes).run()
