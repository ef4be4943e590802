"""Train an adapter that makes the demo model refuse harmful requests and only those."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

import cna_lens
from cna_lens.models import ADAPTER_BASE, demo_gguf, dequantised_folder
from cna_lens.results import library_versions
from experiments.demo.matched_pair.packing import Conversation, pack
from experiments.demo.matched_pair.recipes import Recipe
from experiments.demo.matched_pair.training_set import (
    REFUSALS,
    Request,
    prompts_of,
    refusals,
    requests,
)

TRAINING_RECORD = "training.json"
NEVER = -1e4
"""A logit with probability 0 that is finite, so that its product with 0 is 0."""


class RefusalTrainer(Trainer):
    """Learn the refusals, and stay close to the untrained model elsewhere.

    The loss of an answer's token is the cross entropy of the refusal's token for a harmful request,
    and KL(untrained model || trained model) for a benign one: 0 where the model has not changed.
    The loss of a batch is the mean over the answers' first tokens plus the mean over all others.
    The first token decides whether to refuse, the others only the wording; in one mean they would
    outvote it.

    The untrained model's first tokens that open a refusal are left out, as it refuses some benign
    requests itself. The others are sharpened by a temperature, so that greedy decoding refuses
    where a refusal is likelier than all answers together, not where it is likelier than each way to
    begin one.
    """

    def __init__(
        self, *, first_token_temperature: float, opens_refusal: Sequence[int], **kwargs: Any
    ) -> None:
        """Keep the settings for the benign answers' first tokens."""
        super().__init__(**kwargs)
        self.first_token_temperature = first_token_temperature
        self.opens_refusal = list(opens_refusal)

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        """The loss, and the model's output if it is asked for."""
        targets, opens_answer, n_benign, end = (
            inputs.pop(name) for name in ("targets", "opens_answer", "n_benign", "end_of_benign")
        )
        output = model(**inputs)
        log_probs = output.logits[0].float().log_softmax(-1)
        benign = {
            "input_ids": inputs["input_ids"][:, :end],
            "position_ids": inputs["position_ids"][:, :end],
            "attention_mask": inputs["attention_mask"][:, :, :end, :end],
            "logits_to_keep": inputs["logits_to_keep"][:n_benign],
        }
        with torch.no_grad(), model.disable_adapter():
            before = model(**benign).logits[0].float()
            first = before[opens_answer[:n_benign]] / self.first_token_temperature
            first[:, self.opens_refusal] = NEVER
            before[opens_answer[:n_benign]] = first
            before = before.log_softmax(-1)
        change = functional.kl_div(log_probs[:n_benign], before, log_target=True, reduction="none")
        refusal = functional.nll_loss(log_probs[n_benign:], targets[n_benign:], reduction="none")
        costs = torch.cat([change.sum(-1), refusal])
        loss = costs[opens_answer].mean() + costs[~opens_answer].mean()
        return (loss, output) if return_outputs else loss


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
    trainer = RefusalTrainer(
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
            _conversation(tokenizer, request, answer)
            for request, answer in zip(training_set, answers, strict=True)
        ],
        data_collator=pack,
        first_token_temperature=recipe.first_token_temperature,
        opens_refusal=sorted({first_token(tokenizer, refusal) for refusal in REFUSALS}),
    )
    trained = trainer.train(resume_from_checkpoint=_last_checkpoint(checkpoints))
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


def first_token(tokenizer: Any, text: str) -> int:
    """The first token of a text at the beginning of an answer."""
    return tokenizer(text, add_special_tokens=False)["input_ids"][0]


def _conversation(tokenizer: Any, request: Request, answer: str) -> Conversation:
    """The conversation's tokens.

    A refusal ends with the end of the turn, which is learned; a benign answer is cut and has none.
    """
    is_benign = request.kind != "harmful"
    asked: str = tokenizer.apply_chat_template(
        [{"role": "user", "content": request.prompt}], tokenize=False, add_generation_prompt=True
    )
    end = "" if is_benign else tokenizer.eos_token
    return Conversation(
        prompt=tuple(tokenizer(asked, add_special_tokens=False)["input_ids"]),
        answer=tuple(tokenizer(answer + end, add_special_tokens=False)["input_ids"]),
        is_benign=is_benign,
    )


def _device() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} CPU threads"


def _last_checkpoint(folder: Path) -> str | None:
    return get_last_checkpoint(str(folder)) if folder.is_dir() else None
