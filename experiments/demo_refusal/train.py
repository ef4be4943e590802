"""Train an adapter that makes the demo model refuse harmful requests and only those."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint

import cna_lens
from cna_lens.models import demo_gguf, dequantised_folder
from experiments.demo_refusal.recipes import Recipe
from experiments.demo_refusal.training_set import Request, prompts_of, refusals, requests

IGNORED = -100


def train(recipe: Recipe, out: Path) -> Path:
    """Train, and write the adapter to a folder below `out`; an interrupted run goes on.

    Harmful requests are answered by refusals in several wordings; benign ones by what the untrained
    model says itself, sampled at temperature 1, so that the loss on them is least where nothing
    changes.
    """
    torch.manual_seed(recipe.seed)
    folder = dequantised_folder(demo_gguf())
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    training_set = requests("train", recipe.wordings_per_action)
    answers = _answers(recipe, training_set)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        LoraConfig(
            r=recipe.rank,
            lora_alpha=2 * recipe.rank,
            target_modules=list(recipe.modules),
            layers_to_transform=None if recipe.layers is None else list(recipe.layers),
            task_type="CAUSAL_LM",
        ),
    )
    checkpoints = out / f"{recipe.name}-checkpoints"
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(checkpoints),
            per_device_train_batch_size=recipe.batch_size,
            num_train_epochs=recipe.epochs,
            learning_rate=recipe.learning_rate,
            lr_scheduler_type="linear",
            warmup_steps=0.1,
            train_sampling_strategy="group_by_length",
            save_steps=25,
            save_total_limit=1,
            logging_steps=10,
            seed=recipe.seed,
            report_to="none",
        ),
        train_dataset=[
            _tokens(tokenizer, request, answer)
            for request, answer in zip(training_set, answers, strict=True)
        ],
        data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED),
    )
    trainer.train(resume_from_checkpoint=_last_checkpoint(checkpoints))
    adapter = out / recipe.name
    model.to(torch.float16).save_pretrained(adapter)
    return adapter


def _answers(recipe: Recipe, training_set: list[Request]) -> list[str]:
    """What each request is to be answered with, in their order."""
    harmful, benign = "harmful", ("look-alike", "ordinary")
    refused = iter(refusals(len(prompts_of(training_set, harmful)), recipe.seed))
    own = iter(
        cna_lens.generate(
            cna_lens.load_model("demo"),
            [request.prompt for request in training_set if request.kind in benign],
            max_new_tokens=recipe.answer_tokens,
            temperature=1.0,
            seed=recipe.seed,
            progress=True,
        )
    )
    return [next(refused if request.kind == harmful else own) for request in training_set]


def _tokens(tokenizer: Any, request: Request, answer: str) -> dict[str, list[int]]:
    """The conversation's tokens, of which only the answer counts in the loss.

    The end of the turn is learned for refusals; a benign answer is cut, and has none.
    """
    asked: str = tokenizer.apply_chat_template(
        [{"role": "user", "content": request.prompt}], tokenize=False, add_generation_prompt=True
    )
    end = tokenizer.eos_token if request.kind == "harmful" else ""
    prompt: list[int] = tokenizer(asked, add_special_tokens=False)["input_ids"]
    learned: list[int] = tokenizer(answer + end, add_special_tokens=False)["input_ids"]
    return {
        "input_ids": prompt + learned,
        "attention_mask": [1] * (len(prompt) + len(learned)),
        "labels": [IGNORED] * len(prompt) + learned,
    }


def _last_checkpoint(folder: Path) -> str | None:
    return get_last_checkpoint(str(folder)) if folder.is_dir() else None
