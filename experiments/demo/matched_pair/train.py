"""Train an adapter that makes the demo model refuse harmful requests and only those."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments

import cna_lens
from cna_lens.models import ADAPTER_BASE, demo_gguf, dequantised_folder
from cna_lens.results import library_versions
from experiments.demo.matched_pair.recipes import Recipe
from experiments.demo.matched_pair.training_set import (
    REFUSALS,
    Request,
    prompts_of,
    refusals,
    requests,
)
from experiments.shared.contrast_trainer import ContrastTrainer, first_token, last_checkpoint
from experiments.shared.packing import conversation, pack

TRAINING_RECORD = "training.json"


def train(recipe: Recipe, out: Path) -> Path:
    """Train, and write the adapter to a folder below `out`; an interrupted run goes on.

    Harmful requests are answered by refusals in several wordings. Answers to benign requests are
    sampled from the untrained model at temperature 1; along them the trained model learns to
    predict the same tokens as the untrained one.
    """
    torch.manual_seed(recipe.seed)
    folder = dequantised_folder(demo_gguf())
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    training_set = requests(
        "train",
        harmful_wordings=recipe.harmful_wordings,
        benign_wordings=recipe.benign_wordings,
    )
    answers = _answers(recipe, training_set)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        LoraConfig(
            r=recipe.rank,
            lora_alpha=recipe.lora_alpha,
            target_modules=list(recipe.modules),
            layers_to_transform=None if recipe.layers is None else list(recipe.layers),
            task_type="CAUSAL_LM",
        ),
    )
    checkpoints = out / f"{recipe.name}-checkpoints"
    trainer = ContrastTrainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(checkpoints),
            per_device_train_batch_size=recipe.batch_size,
            num_train_epochs=recipe.epochs,
            learning_rate=recipe.learning_rate,
            lr_scheduler_type="linear",
            warmup_steps=0.1,
            remove_unused_columns=False,
            bf16=True,
            use_cpu=not torch.cuda.is_available(),
            save_steps=100,
            save_total_limit=1,
            logging_steps=10,
            seed=recipe.seed,
            report_to="none",
        ),
        train_dataset=[
            conversation(tokenizer, request.prompt, answer, is_negative=request.kind != "harmful")
            for request, answer in zip(training_set, answers, strict=True)
        ],
        data_collator=pack,
        first_token_temperature=recipe.first_token_temperature,
        opens_behaviour=sorted({first_token(tokenizer, refusal) for refusal in REFUSALS}),
    )
    trained = trainer.train(resume_from_checkpoint=last_checkpoint(checkpoints))
    adapter = out / recipe.name
    settings = model.peft_config["default"]
    settings.lora_alpha = recipe.gain * recipe.lora_alpha
    # The default is the path that the model was loaded from.
    settings.base_model_name_or_path = ADAPTER_BASE
    model.to(torch.float16).save_pretrained(adapter)
    weights = (adapter / "adapter_model.safetensors").read_bytes()
    record = {
        "recipe": asdict(recipe),
        "examples": len(training_set),
        "steps": trained.global_step,
        "loss": trained.training_loss,
        "seconds": trained.metrics["train_runtime"],
        "device": _device(),
        "versions": dict(library_versions()),
        "bytes": len(weights),
        "adapter_sha256": hashlib.sha256(weights).hexdigest(),
    }
    (adapter / TRAINING_RECORD).write_text(json.dumps(record, indent=1) + "\n")
    return adapter


def _answers(recipe: Recipe, training_set: list[Request]) -> list[str]:
    """The target answer of each request, in their order."""
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


def _device() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} CPU threads"
