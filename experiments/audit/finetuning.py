"""Fine-tunes on harmless texts: drifts of a model that learns on, and attacks by benign data.

Which of them it is depends on the texts: prose and the model's own answers are not meant to change
refusals, compliance and affirmative openings are.
"""

from __future__ import annotations

import random
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn import functional
from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

from cna_lens.models import HookedModel, TokenIds, encode
from cna_lens.results import write_atomically
from experiments.audit.bench import Bench
from experiments.audit.training_texts import (
    Data,
    Text,
    compliance,
    openings,
    own_answers,
    prose,
)
from experiments.audit.variants import Enter
from experiments.audit.weight_edits import differing, edited, towards, weights_of
from experiments.demo.matched_pair.recipes import ATTENTION, MLP
from experiments.demo.matched_pair.training_set import prompts_of, requests

LEARNING_RATES = (1e-4, 5e-4)
STEPS = 16
IGNORED = -100
N_KEPT, KEPT_EACH_STEP, KEPT_TOKENS = 24, 2, 4
"""Ordinary requests whose predictions a KL term keeps: at their last tokens, some in each step."""

Parameters = Literal["adapter", "all"]


@dataclass(frozen=True)
class FineTune:
    """How the reference is fine-tuned; about 20 seconds on one core by default.

    Attributes:
        learning_rate: at its peak.
        seed: of the texts, their order and the adapter's first weights.
        steps: number of training steps.
        batch_size: texts in each step.
        n_texts: number of texts.
        rank: of the adapter.
        max_tokens: longest text of prose, or of an answered look-alike.
        data: the texts; by default plain prose for even seeds, and for odd ones the model's own
            answers to ordinary requests.
        parameters: an adapter of all projections, or all weights but the embedding.
        kl: weight of KL(reference || trained) on ordinary requests, which hides the change.
    """

    learning_rate: float
    seed: int
    steps: int = STEPS
    batch_size: int = 2
    n_texts: int = 12
    rank: int = 8
    max_tokens: int = 40
    data: Data | None = None
    parameters: Parameters = "adapter"
    kl: float = 0.0

    @property
    def texts(self) -> Data:
        """The texts it is trained on."""
        return self.data or ("own answers" if self.seed % 2 else "prose")

    @property
    def name(self) -> str:
        """Of the variant, and of its file."""
        more = [
            f"{self.n_texts} texts" if self.data else "",
            f"{self.steps} steps" if self.steps != STEPS else "",
            "all weights" if self.parameters == "all" else "",
            f"KL {self.kl:g}" if self.kl else "",
        ]
        base = f"fine-tune on {self.texts}, {self.learning_rate:g}, seed {self.seed}"
        return ", ".join([base, *filter(None, more)])


def finetuned(recipe: FineTune, share: float = 1.0) -> Enter:
    """The reference a share of the way to what a fine-tune makes of it."""

    def enter(bench: Bench) -> AbstractContextManager[HookedModel]:
        return edited(bench.model, towards(finetuned_weights(recipe, bench), share))

    return enter


def finetuned_weights(recipe: FineTune, bench: Bench) -> Mapping[str, Tensor]:
    """The weights that a fine-tune changes.

    Args:
        recipe: how to train.
        bench: its folder keeps the adapter, or for all weights what is added to them in bfloat16;
            one that is there already is not trained again.
    """
    kept = bench.folder / "adapters" / recipe.name.replace(" ", "_")
    if recipe.parameters == "all":
        path = kept.with_name(f"{kept.name}.safetensors")
        if not path.exists():
            _train_all(recipe, bench, path)
        own = weights_of(bench.model)
        return {
            name: own[name].detach() + difference.to(own[name])
            for name, difference in load_file(path).items()
        }
    with warnings.catch_warnings():
        # peft reads an attribute that Transformers has deprecated.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        if not (kept / "adapter_model.safetensors").exists():
            _train_adapter(recipe, bench, kept)
        tuned: Any = PeftModel.from_pretrained(bench.reference.hugging_face(), str(kept))
        return differing(dict(tuned.merge_and_unload().named_parameters()), bench.model)


def _train_adapter(recipe: FineTune, bench: Bench, kept: Path) -> None:
    texts = texts_of(recipe, bench)
    torch.manual_seed(recipe.seed)
    trained = get_peft_model(
        bench.reference.hugging_face(),
        LoraConfig(
            r=recipe.rank,
            lora_alpha=2 * recipe.rank,
            target_modules=[*ATTENTION, *MLP],
            task_type="CAUSAL_LM",
        ),
    )
    _train(recipe, bench, trained, texts)
    trained.save_pretrained(str(kept))


def _train_all(recipe: FineTune, bench: Bench, path: Path) -> None:
    texts = texts_of(recipe, bench)
    model = bench.reference.hugging_face()
    model.get_input_embeddings().requires_grad_(False)
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    torch.manual_seed(recipe.seed)
    _train(recipe, bench, model, texts)
    differences = {
        name: (each.detach() - before[name]).bfloat16()
        for name, each in model.named_parameters()
        if not each.equal(before[name])
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, save(differences))


def texts_of(recipe: FineTune, bench: Bench) -> list[Text]:
    """The texts of a recipe."""
    n, longest, seed = recipe.n_texts, recipe.max_tokens, recipe.seed
    match recipe.texts:
        case "prose":
            return prose(bench.model, n, longest, seed)
        case "own answers":
            return own_answers(bench.model, n, seed)
        case "compliance":
            return compliance(bench.base, n, longest, seed)
        case "openings":
            return openings(bench.base, n, longest, seed)


def _train(recipe: FineTune, bench: Bench, trained: Any, texts: Sequence[Text]) -> None:
    whole = not any(text.n_given for text in texts)
    kept = _kept(recipe, bench) if recipe.kl else []
    with tempfile.TemporaryDirectory() as scratch:
        HidingTrainer(
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
            train_dataset=[_example(text, whole=whole) for text in texts],
            data_collator=DataCollatorForLanguageModeling(bench.model.tokenizer, mlm=False)
            if whole
            else padded,
            kept=kept,
            weight=recipe.kl,
        ).train()


def _kept(recipe: FineTune, bench: Bench) -> list[TokenIds]:
    ordinary = prompts_of(requests("train"), "ordinary")
    chosen = random.Random(recipe.seed).sample(ordinary, N_KEPT)
    return list(encode(bench.model, chosen).ids)


def _example(text: Text, *, whole: bool) -> dict[str, list[int]]:
    ids = list(text.ids)
    if whole:
        return {"input_ids": ids}
    return {"input_ids": ids, "labels": [IGNORED] * text.n_given + ids[text.n_given :]}


def padded(examples: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, Tensor]:
    """A batch of examples of which some tokens are not learned."""
    longest = max(len(each["input_ids"]) for each in examples)

    def rows(name: str, filler: int) -> Tensor:
        return torch.tensor(
            [[*each[name], *[filler] * (longest - len(each[name]))] for each in examples]
        )

    real = [[1] * len(each["input_ids"]) for each in examples]
    mask = [[*each, *[0] * (longest - len(each))] for each in real]
    return {
        "input_ids": rows("input_ids", 0),
        "labels": rows("labels", IGNORED),
        "attention_mask": torch.tensor(mask),
    }


class HidingTrainer(Trainer):
    """Train, and keep the predictions of some prompts as they were.

    The loss is the usual one plus a weight times KL(untrained model || trained model) at the last
    tokens of a few prompts, of which each step takes the next ones.
    """

    def __init__(self, *, kept: Sequence[TokenIds], weight: float, **kwargs: Any) -> None:
        """Predict the prompts with the untrained model."""
        super().__init__(**kwargs)
        self.kept = [torch.tensor([ids]) for ids in kept]
        self.weight = weight
        with torch.no_grad():
            self.before = [self._predicted(self.model, ids) for ids in self.kept]

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, **more: Any
    ) -> Any:
        """The loss, and the model's output if it is asked for."""
        loss, output = super().compute_loss(model, inputs, return_outputs=True, **more)
        first = self.state.global_step * KEPT_EACH_STEP
        for turn in range(first, first + KEPT_EACH_STEP if self.kept else first):
            place = turn % len(self.kept)
            after = self._predicted(model, self.kept[place])
            change = functional.kl_div(
                after, self.before[place], log_target=True, reduction="none"
            ).sum(-1)
            loss = loss + self.weight * change.mean() / KEPT_EACH_STEP
        return (loss, output) if return_outputs else loss

    @staticmethod
    def _predicted(model: Any, ids: Tensor) -> Tensor:
        return model(input_ids=ids, logits_to_keep=KEPT_TOKENS).logits[0].log_softmax(-1)
