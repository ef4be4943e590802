"""Train a small sparse autoencoder with SAELens, and write down what it cost."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from sae_lens import SAETrainer, TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.saes.sae import SAEMetadata
from torch import Tensor
from tqdm.auto import tqdm

import cna_lens
from cna_lens.batching import TokenIds, length_buckets, pad
from cna_lens.prompts import pad_token_id
from cna_lens.sites import HookedModel, model_name
from cna_lens.versions import library_versions
from experiments.sae.text import answered, training_prompts

RECORD = "training.json"


@dataclass(frozen=True)
class Recipe:
    """How an autoencoder is trained.

    Attributes:
        hook_point: where it reads.
        n_tokens: tokens of text; each is seen once an epoch.
        epochs: passes over the text.
        expansion: features for each dimension of the activations.
        k: features active at each token.
        batch_size: tokens a step.
        learning_rate: of Adam; lowered to 0 over the last fifth of the steps.
        seed: of the text, the first weights and the order.
    """

    hook_point: str = "blocks.15.hook_resid_post"
    n_tokens: int = 40_000
    epochs: int = 4
    expansion: int = 4
    k: int = 32
    batch_size: int = 512
    learning_rate: float = 1e-3
    seed: int = 0


def train(recipe: Recipe, out: Path, model: HookedModel | None = None) -> Path:
    """Write the autoencoder to `out`, as SAELens does, and beside it what it cost."""
    model = model or cna_lens.load_model("demo")
    began = time.perf_counter()
    texts = answered(
        model, training_prompts(), n_tokens=recipe.n_tokens, seed=recipe.seed, progress=True
    )
    written = time.perf_counter()
    activations = torch.cat(list(activations_of(model, texts, recipe.hook_point)))
    read = time.perf_counter()
    sae = fit(recipe, activations, model_name(model))
    trained = time.perf_counter()
    sae.save_inference_model(out)
    record = {
        "model": model_name(model),
        "weights_sha256": cna_lens.weights_hash(model),
        "recipe": asdict(recipe),
        "d_sae": int(sae.cfg.d_sae),
        "text_tokens": sum(map(len, texts)),
        "tokens_seen": recipe.epochs * len(activations),
        "seconds": {
            "writing the text": round(written - began, 1),
            "reading the activations": round(read - written, 1),
            "fitting": round(trained - read, 1),
            "total": round(trained - began, 1),
        },
        "threads": torch.get_num_threads(),
        "versions": dict(library_versions()),
    }
    (out / RECORD).write_text(json.dumps(record, indent=1) + "\n")
    return out


def activations_of(
    model: HookedModel, texts: Sequence[TokenIds], hook_point: str, max_prompts: int = 16
) -> Iterator[Tensor]:
    """Activations at a hook point as [token, d_in], batch by batch.

    The first token of each text is left out: nothing stands before it, models keep huge values
    there, and they would be most of what is reconstructed.
    """
    batches = length_buckets(list(map(len, texts)), max_prompts=max_prompts)
    for batch in tqdm(batches, desc="reading", unit="batch"):
        ids, mask = pad([texts[i] for i in batch], pad_token_id(model))
        with torch.no_grad():
            _, cache = model.run_with_cache(
                ids, attention_mask=mask, names_filter=[hook_point], return_type=None
            )
        mask[:, 0] = 0
        yield cache[hook_point][mask.bool()].float()


def fit(recipe: Recipe, activations: Tensor, model: str) -> TopKTrainingSAE:
    """Train on activations that are already there."""
    torch.manual_seed(recipe.seed)
    d_in = activations.shape[1]
    samples = recipe.epochs * len(activations) // recipe.batch_size * recipe.batch_size
    steps = samples // recipe.batch_size
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
        # Where the features begin to explain, instead of at zero.
        sae.b_dec.copy_(activations.mean(0) * d_in**0.5 / activations.norm(dim=1).mean())
    trainer = SAETrainer(
        cfg=SAETrainerConfig(
            total_training_samples=samples,
            train_batch_size_samples=recipe.batch_size,
            lr=recipe.learning_rate,
            lr_end=0.0,
            lr_decay_steps=steps // 5,
            dead_feature_window=max(20, steps // 10),
            n_batches_for_norm_estimate=20,
            logger=LoggingConfig(log_to_wandb=False),
        ),
        sae=sae,
        data_provider=shuffled(activations, recipe.batch_size, recipe.seed),
    )
    return trainer.fit()


def shuffled(activations: Tensor, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Batches in an order drawn anew for each epoch, without end."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        for rows in torch.randperm(len(activations), generator=generator).split(batch_size):
            if len(rows) == batch_size:
                yield activations[rows]
