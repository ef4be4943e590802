"""What a user waits for on the demo model: a learned ranking, integrated gradients, evidence."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from transformers import AutoModelForCausalLM

import cna_lens
from cna_lens.models import TokenIds, demo_gguf, dequantised_folder, encode, length_buckets, pad
from experiments.benchmarks.timing import Measure, alternate, quantity, ratio, seconds

STEPS = 10
PLAIN_TOKENS = 1024
PROMPTS = 100


def run(repeats: int, only: Sequence[str] | None = None) -> list[Measure]:
    """The parts asked for, all by default."""
    parts = {
        "evidence": evidence,
        "gradients": partial(gradients, repeats),
        "precision": partial(precision, repeats),
        "learned": learned,
    }
    if unknown := set(only or ()) - set(parts):
        raise SystemExit(f"no part {min(unknown)!r}; there are: {', '.join(parts)}")
    return [
        measure for name, part in parts.items() if not only or name in only for measure in part()
    ]


def _prompts() -> tuple[Sequence[str], Sequence[str]]:
    prompts = cna_lens.prompt_set("refusal")
    return prompts.positive[:PROMPTS], prompts.negative[:PROMPTS]


def evidence() -> list[Measure]:
    """Stability and null distribution from kept activations."""
    model = cna_lens.load_model("demo", device="cpu")
    kept = [cna_lens.collect(model, each, keep="all") for each in _prompts()]
    spent = [
        seconds(lambda: (cna_lens.stability(*kept), cna_lens.null_distribution(*kept)))
        for _ in range(3)
    ]
    return [quantity("stability and null of 100 + 100 prompts", spent, "s", "under 20 s")]


def gradients(repeats: int) -> list[Measure]:
    """Integrated gradients over one plain forward and backward pass over the same prompts."""
    model = cna_lens.load_model("demo-refusal", device="cpu")
    positive, negative = _prompts()
    plain: Any = AutoModelForCausalLM.from_pretrained(dequantised_folder(demo_gguf())).eval()
    encoded = encode(model, positive).ids

    def integrated() -> None:
        ranking = cna_lens.AttributionPatching(steps=STEPS)
        cna_lens.score_neurons(model, positive, negative, ranking)

    times = alternate(
        {"integrated": integrated, "plain": lambda: _plain_backward(plain, encoded)},
        repeats,
        warm_up=0,
    )
    name = f"integrated gradients of {STEPS} steps / one plain forward and backward pass"
    return [ratio(name, times, "integrated", "plain", "at most 12")]


def precision(repeats: int) -> list[Measure]:
    """Bfloat16 beside float32: seconds, neurons of the circuits, labels of the answers."""
    models = {
        dtype: cna_lens.load_model("demo-refusal", device="cpu", dtype=dtype)
        for dtype in (torch.float32, torch.bfloat16)
    }
    positive, negative = _prompts()
    questions = cna_lens.prompt_set("refusal_evaluation").positive[:48]
    circuits: dict[torch.dtype, cna_lens.Circuit] = {}
    labels: dict[torch.dtype, list[bool]] = {}

    def find(dtype: torch.dtype) -> None:
        circuits[dtype] = cna_lens.find_circuit(
            models[dtype], positive, negative, universal=None, progress=False
        )

    def patch(dtype: torch.dtype) -> None:
        ranking = cna_lens.AttributionPatching()
        cna_lens.score_neurons(models[dtype], positive[:24], negative[:24], ranking)

    def answer(dtype: torch.dtype) -> None:
        answers = cna_lens.generate(models[dtype], questions, max_new_tokens=24)
        labels[dtype] = [cna_lens.is_refusal(each) for each in answers]

    measures: list[Measure] = []
    for name, run in (
        ("discovery from 100 + 100 prompts", find),
        ("attribution patching from 24 + 24 prompts", patch),
        ("48 answers of 24 tokens", answer),
    ):
        both = {str(dtype): partial(run, dtype) for dtype in models}
        times = alternate(both, repeats)
        label = f"{name}: bfloat16 / float32"
        measures.append(ratio(label, times, str(torch.bfloat16), str(torch.float32), ""))
    single, half = circuits.values()
    same = sum(a == b for a, b in zip(*labels.values(), strict=True))
    return [
        *measures,
        quantity(
            "neurons of the float32 circuit in bfloat16",
            len({*single} & {*half}),
            f"of {len(single)}",
        ),
        quantity("labels of answers that agree", same, f"of {len(questions)}"),
    ]


def learned() -> list[Measure]:
    """The learned mask with its own settings, once."""
    model = cna_lens.load_model("demo-refusal", device="cpu")
    positive, negative = _prompts()

    def find() -> None:
        cna_lens.find_circuit(model, positive, negative, rank="best", universal=None, progress=True)

    return [quantity("a circuit by the learned mask", seconds(find), "s", "at most 600 s")]


def _plain_backward(model: Any, encoded: Sequence[TokenIds]) -> None:
    """The Hugging Face model alone: the gradient of one logit of each prompt."""
    for batch in length_buckets([len(ids) for ids in encoded], token_budget=PLAIN_TOKENS):
        ids, mask = pad([encoded[row] for row in batch], pad_id=0, side="left")
        logits = model(ids, attention_mask=mask, use_cache=False, logits_to_keep=1).logits
        logits[:, -1, 0].sum().backward()
        model.zero_grad()
