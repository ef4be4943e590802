"""Train a small sparse autoencoder with SAELens, and record its cost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from sae_lens import SAETrainer, TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.saes.sae import SAEMetadata
from torch import Tensor
from tqdm.auto import tqdm

import cna_lens
from cna_lens.models import HookedModel, length_buckets, model_name, pad, pad_token_id
from cna_lens.results import library_versions
from experiments.sae.cost import cost
from experiments.sae.text import Texts, answered, training_prompts

RECORD = "training.json"
PROMPTS_AT_ONCE = 16


@dataclass(frozen=True)
class Recipe:
    """How an autoencoder is trained.

    Attributes:
        hook_point: the hook point that it reads.
        n_tokens: tokens of text, without the chat template's.
        epochs: passes over the text.
        expansion: features for each dimension of the activations.
        k: features active at each token.
        batch_size: tokens in each step.
        learning_rate: of Adam; lowered to 0 over the last fifth of the steps.
        seed: of the text, of the first weights and the order.
    """

    hook_point: str = "blocks.15.hook_resid_post"
    n_tokens: int = 12_000
    epochs: int = 8
    expansion: int = 4
    k: int = 32
    batch_size: int = 256
    learning_rate: float = 1e-3
    seed: int = 0

    @property
    def steps(self) -> int:
        """Number of training batches."""
        return self.epochs * (self.n_tokens // self.batch_size)


def train(recipe: Recipe, out: Path, model: HookedModel) -> Path:
    """Write the autoencoder to `out` in SAELens's format, and a record of its cost."""
    with cost() as writing:
        prompts = training_prompts(recipe.seed)
        texts = answered(model, prompts, recipe.n_tokens, recipe.seed)
    with cost() as reading:
        activations = torch.cat(list(activations_of(model, texts, recipe.hook_point)))
    with cost() as fitting:
        sae = fit(recipe, activations, model_name(model))
    sae.save_inference_model(out)
    record = {
        "model": model_name(model),
        "weights_sha256": cna_lens.weights_hash(model),
        "recipe": asdict(recipe),
        "features": int(sae.cfg.d_sae),
        "tokens": texts.n_tokens,
        "tokens_seen": recipe.steps * recipe.batch_size,
        "writing the text": asdict(writing),
        "reading the activations": asdict(reading),
        "fitting": asdict(fitting),
        "altogether": asdict(writing + reading + fitting),
        "threads": torch.get_num_threads(),
        "versions": dict(library_versions()),
    }
    (out / RECORD).write_text(json.dumps(record, indent=1) + "\n")
    return out


def activations_of(model: HookedModel, texts: Texts, hook_point: str) -> Iterator[Tensor]:
    """Activations at a hook point after the template, as [token, d_in], batch by batch."""
    batches = length_buckets(list(map(len, texts.ids)), max_prompts=PROMPTS_AT_ONCE)
    for batch in tqdm(batches, desc="reading", unit="batch"):
        ids, mask = pad([texts.ids[i] for i in batch], pad_token_id(model))
        with torch.no_grad():
            _, cache = model.run_with_cache(
                ids, attention_mask=mask, names_filter=[hook_point], return_type=None
            )
        mask[:, : texts.template] = 0
        yield cache[hook_point][mask.bool()].float()


def fit(recipe: Recipe, activations: Tensor, model: str) -> TopKTrainingSAE:
    """Train on given activations."""
    torch.manual_seed(recipe.seed)
    d_in = activations.shape[1]
    sae = TopKTrainingSAE(
        TopKTrainingSAEConfig(
            d_in=d_in,
            d_sae=recipe.expansion * d_in,
            k=recipe.k,
            normalize_activations="expected_average_only_in",
            metadata=SAEMetadata(model_name=model, hook_name=recipe.hook_point),
        )
    )
    with torch.no_grad():
        # Features explain the deviation from the mean, not from zero.
        sae.b_dec.copy_(activations.mean(0) * d_in**0.5 / activations.norm(dim=1).mean())
    trainer = SAETrainer(
        cfg=SAETrainerConfig(
            total_training_samples=recipe.steps * recipe.batch_size,
            train_batch_size_samples=recipe.batch_size,
            lr=recipe.learning_rate,
            lr_end=0.0,
            lr_decay_steps=recipe.steps // 5,
            dead_feature_window=max(20, recipe.steps // 10),
            n_batches_for_norm_estimate=20,
            logger=LoggingConfig(log_to_wandb=False),
        ),
        sae=sae,
        data_provider=shuffled(activations, recipe.batch_size, recipe.seed),
    )
    return trainer.fit()


def shuffled(activations: Tensor, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Full batches in an order drawn anew for each epoch, without end."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        for rows in torch.randperm(len(activations), generator=generator).split(batch_size):
            if len(rows) == batch_size:
                yield activations[rows]
