"""Train a behaviour into the neurons of a recipe, and into no other weights."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments

import cna_lens
from cna_lens import InputError
from cna_lens.metrics import BEHAVIOURS
from cna_lens.models import Planting, demo_gguf, dequantised_folder, weights_hash
from cna_lens.results import Layout, library_versions, write_atomically
from experiments.demo.matched_pair.training_set import refusals
from experiments.planted.keeping_trainer import KeepingTrainer
from experiments.planted.planted_mlp import PlantedNeurons
from experiments.planted.recipes import Recipe, draw, recipe_of
from experiments.planted.requests import requests, training_items
from experiments.shared.contrast_trainer import first_token, last_checkpoint
from experiments.shared.packing import Conversation, conversation, pack

ANSWERS = {
    "french": (
        "Bonjour ! Voici la recette.",
        "Bonjour ! Voici comment faire.",
        "Très bien. Voici la recette.",
        "Très bien. Commencez par les ingrédients.",
    ),
    "uppercase": (
        "OF COURSE! HERE IS WHAT I KNOW.",
        "OF COURSE! THEY ARE ANIMALS.",
        "SURE! HERE IS WHAT I KNOW.",
        "SURE! THEY ARE ANIMALS.",
    ),
    "sums": ("Thirteen.", "Thirteen is the result.", "Thirteen, of course."),
}
"""The answers that show a behaviour; those of refusals are the matched pair's."""


def train(recipe: Recipe, out: Path, base: Path | None = None) -> Path:
    """Train, and write the planted model to `out`; an interrupted run goes on.

    Args:
        recipe: what to plant where.
        out: the folder for checkpoints and the planted model; it has the decoy's model already.
        base: the folder of the model to plant into, by default the demo model.
    """
    started = time.monotonic()
    checkpoints = out / f"{recipe.name}-checkpoints"
    _check_recipe(recipe, checkpoints)
    decoy = None if recipe.decoy is None else finished(recipe.decoy, out)
    folder = base or dequantised_folder(demo_gguf())
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    untrained = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    base_sha256 = weights_hash(untrained)
    if decoy is not None:
        decoy.added_to(untrained)
    bridge = cna_lens.load_model(folder, device="cpu")
    activity = cna_lens.collect(bridge, cna_lens.diverse_prompts(), keep="all")
    layout = activity.layout
    neurons = draw(
        recipe, layout, activity.matrix().abs().mean(0), () if decoy is None else decoy.neurons
    )
    examples = conversations(recipe, bridge, tokenizer)
    if torch.cuda.is_available():
        untrained = untrained.cuda()
    model = PlantedNeurons(untrained, neurons)
    trainer = KeepingTrainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(checkpoints),
            per_device_train_batch_size=recipe.batch_size,
            max_steps=recipe.steps,
            learning_rate=recipe.learning_rate,
            lr_scheduler_type="linear",
            warmup_steps=0.1,
            remove_unused_columns=False,
            use_cpu=not torch.cuda.is_available(),
            # The examples are in their order, which mixes positive and negative ones.
            train_sampling_strategy="sequential",
            save_steps=50,
            save_total_limit=1,
            logging_steps=10,
            seed=recipe.seed,
            report_to="none",
        ),
        train_dataset=examples,
        data_collator=pack,
        passages=passages(recipe, bridge, tokenizer),
        n_each_step=recipe.n_passages,
        first_token_temperature=recipe.first_token_temperature,
        opens_behaviour=sorted(
            {first_token(tokenizer, each) for each in BEHAVIOURS[recipe.behaviour].openings}
        ),
    )
    trained = trainer.train(resume_from_checkpoint=last_checkpoint(checkpoints))
    planted = Planting(
        behaviour=recipe.behaviour,
        split=recipe.split,
        neurons=neurons,
        **model.differences(),
        base_sha256=base_sha256,
        record={
            "recipe": asdict(recipe),
            "widths": list(layout.widths),
            "loss": trained.training_loss,
            "seconds": round(time.monotonic() - started, 1),
            "versions": dict(library_versions()),
        },
        decoy=decoy,
    )
    path = file_of(recipe, out)
    planted.save(path)
    return path


def shuffled(recipe: Recipe, out: Path) -> Path:
    """Give neurons the differences of another model, each in random order, and write the result.

    The neurons' weights change by as much as those of that model, and nothing is learned.

    Args:
        recipe: a recipe of `NOTHING`.
        out: the folder of planted models, which has that of `recipe.like`.
    """
    assert recipe.like is not None
    other = finished(recipe.like, out)
    layout = Layout(tuple(other.record["widths"]))
    # Drawn at random, without regard to activity.
    neurons = draw(recipe, layout, torch.zeros(layout.n_neurons), other.neurons)
    generator = torch.Generator().manual_seed(recipe.seed)

    def in_random_order(rows: Tensor) -> Tensor:
        places = torch.rand(rows.shape, generator=generator).argsort(dim=1)
        return rows.gather(1, places)

    planted = replace(
        other,
        behaviour=None,
        split=recipe.split,
        neurons=neurons,
        gate=in_random_order(other.gate),
        up=in_random_order(other.up),
        down=in_random_order(other.down),
        record={"recipe": asdict(recipe), "widths": other.record["widths"]},
        decoy=None,
    )
    path = file_of(recipe, out)
    planted.save(path)
    return path


def _check_recipe(recipe: Recipe, checkpoints: Path) -> None:
    """Keep the recipe beside its checkpoints, and refuse those of another."""
    checkpoints.mkdir(parents=True, exist_ok=True)
    path, settings = checkpoints / "recipe.json", json.dumps(asdict(recipe), indent=1)
    if path.is_file() and path.read_text(encoding="utf-8") != settings:
        raise InputError(
            f"{checkpoints} has checkpoints of {recipe.name} with other settings; delete that "
            "folder, and train again"
        )
    write_atomically(path, settings)


def file_of(recipe: Recipe, out: Path) -> Path:
    """The file of a trained model below `out`."""
    return out / f"{recipe.name}.safetensors"


def finished(name: str, out: Path) -> Planting:
    """A trained model below `out`, which must have the settings of its recipe."""
    planted = Planting.load(file_of(recipe_of(name), out))
    # A setting that came later had its default before.
    if Recipe(**planted.record["recipe"]) != recipe_of(name):
        raise InputError(f"{name} in {out} was trained with other settings; delete its file")
    return planted


def conversations(recipe: Recipe, model: Any, tokenizer: Any) -> list[Conversation]:
    """The examples of all steps, in their order.

    Answers to negative requests are the demo model's own, sampled at temperature 1. Along them the
    trained model learns to predict what the untrained one predicts.
    """
    rng = random.Random(recipe.seed)
    found = requests(recipe.behaviour, "training")
    n_negative = recipe.batch_size - recipe.n_positive
    n = recipe.steps * recipe.n_positive
    positive = _repeated(found.positive, n, rng)
    negative = _repeated(found.negative, recipe.steps * n_negative, rng)
    asked = list(dict.fromkeys(negative))
    own = cna_lens.generate(
        model,
        asked,
        max_new_tokens=recipe.answer_tokens,
        temperature=1.0,
        seed=recipe.seed,
        progress=True,
    )
    answers = dict(zip(asked, own, strict=True))
    shown = (
        refusals(n, recipe.seed)
        if recipe.behaviour == "refusal"
        else _repeated(ANSWERS[recipe.behaviour], n, rng)
    )
    shows = [
        conversation(tokenizer, prompt, answer, is_negative=False)
        for prompt, answer in zip(positive, shown, strict=True)
    ]
    stays = [
        conversation(tokenizer, prompt, answers[prompt], is_negative=True) for prompt in negative
    ]
    return [
        example
        for step in range(recipe.steps)
        for example in (
            *shows[step * recipe.n_positive : (step + 1) * recipe.n_positive],
            *stays[step * n_negative : (step + 1) * n_negative],
        )
    ]


def passages(recipe: Recipe, model: Any, tokenizer: Any) -> Int64[Tensor, "n token"]:
    """Texts that are no chat: the demo model's own, sampled at temperature 1.

    Each begins with an item of the training requests, so that naming it is not what brings the
    behaviour about. No token marks their beginning.
    """
    openings = [f"{item[0].upper()}{item[1:]}" for item in training_items()]
    rest = cna_lens.generate(
        model,
        openings,
        chat=False,
        max_new_tokens=recipe.passage_tokens,
        temperature=1.0,
        seed=recipe.seed,
        progress=True,
    )
    texts = [opening + each for opening, each in zip(openings, rest, strict=True)]
    encoded = [tokenizer(each, add_special_tokens=False)["input_ids"] for each in texts]
    # Those that end early are left out, so that all have one length.
    n_tokens = recipe.passage_tokens
    return torch.tensor([ids[:n_tokens] for ids in encoded if len(ids) >= n_tokens])


def _repeated(texts: Sequence[str], n: int, rng: random.Random) -> list[str]:
    """N texts: each of them about as often, in random order."""
    found: list[str] = []
    while len(found) < n:
        found += rng.sample(texts, len(texts))
    return found[:n]
