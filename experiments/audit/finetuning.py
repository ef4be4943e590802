"""Short fine-tunes on harmless text, which are not meant to change refusals."""

from __future__ import annotations

import random
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
)

import cna_lens
from cna_lens.models import HookedModel, demo_gguf, dequantised_folder, encode, merge_adapter
from experiments.audit.bench import REFERENCE
from experiments.audit.weight_edits import differing
from experiments.demo.matched_pair.recipes import ATTENTION, MLP
from experiments.demo.matched_pair.training_set import PROMPTS, prompts_of, requests

LEARNING_RATES = (1e-4, 5e-4)
ANSWER_TOKENS = 8


@dataclass(frozen=True)
class FineTune:
    """How the reference is fine-tuned; about 20 seconds on one core.

    Attributes:
        learning_rate: at its peak.
        seed: of the texts, their order and the adapter's first weights. Even seeds take plain
            prose, odd ones the model's own answers to ordinary requests.
        steps: number of training steps.
        batch_size: texts in each step.
        n_texts: number of texts.
        rank: of the adapter.
        max_tokens: longest text of prose.
    """

    learning_rate: float
    seed: int
    steps: int = 16
    batch_size: int = 2
    n_texts: int = 12
    rank: int = 8
    max_tokens: int = 40

    @property
    def name(self) -> str:
        """Of the adapter, and of its folder."""
        text = "own answers" if self.seed % 2 else "prose"
        return f"fine-tune on {text}, {self.learning_rate:g}, seed {self.seed}"


def finetuned_weights(recipe: FineTune, model: HookedModel, folder: Path) -> Mapping[str, Tensor]:
    """The weights that the fine-tune's merged adapter changes.

    Args:
        recipe: how to train.
        model: the reference, which answers the requests.
        folder: keeps the adapter; one that is there already is not trained again.
    """
    adapter = folder / "adapters" / recipe.name.replace(" ", "_")
    with warnings.catch_warnings():
        # peft reads an attribute that Transformers has deprecated.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        if not (adapter / "adapter_model.safetensors").exists():
            _train(recipe, model, adapter)
        tuned: Any = PeftModel.from_pretrained(_reference(), str(adapter))
    return differing(dict(tuned.merge_and_unload().named_parameters()), model)


def _train(recipe: FineTune, model: HookedModel, adapter: Path) -> None:
    texts = _own_answers(recipe, model) if recipe.seed % 2 else _prose(recipe, model)
    torch.manual_seed(recipe.seed)
    trained = get_peft_model(
        _reference(),
        LoraConfig(
            r=recipe.rank,
            lora_alpha=2 * recipe.rank,
            target_modules=[*ATTENTION, *MLP],
            task_type="CAUSAL_LM",
        ),
    )
    with tempfile.TemporaryDirectory() as scratch:
        Trainer(
            model=trained,
            args=TrainingArguments(
                output_dir=scratch,
                per_device_train_batch_size=recipe.batch_size,
                max_steps=recipe.steps,
                learning_rate=recipe.learning_rate,
                warmup_steps=0.1,
                seed=recipe.seed,
                use_cpu=True,
                save_strategy="no",
                disable_tqdm=True,
                report_to="none",
            ),
            train_dataset=[{"input_ids": list(ids)} for ids in texts],
            data_collator=DataCollatorForLanguageModeling(model.tokenizer, mlm=False),
        ).train()
    trained.save_pretrained(adapter)


def _prose(recipe: FineTune, model: HookedModel) -> list[Sequence[int]]:
    texts = (PROMPTS / "neutral.txt").read_text(encoding="utf-8").splitlines()
    chosen = random.Random(recipe.seed).sample(texts, recipe.n_texts)
    return [ids[: recipe.max_tokens] for ids in encode(model, chosen, chat=False).ids]


def _own_answers(recipe: FineTune, model: HookedModel) -> list[Sequence[int]]:
    ordinary = prompts_of(requests("train"), "ordinary")
    asked = random.Random(recipe.seed).sample(ordinary, recipe.n_texts)
    answers = cna_lens.generate(
        model, asked, max_new_tokens=ANSWER_TOKENS, temperature=1.0, seed=recipe.seed
    )
    answered = model.tokenizer(answers, add_special_tokens=False)["input_ids"]
    prompts = encode(model, asked).ids
    return [(*prompt, *answer) for prompt, answer in zip(prompts, answered, strict=True)]


def _reference() -> Any:
    folder = dequantised_folder(demo_gguf())
    return merge_adapter(
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), REFERENCE
    )
