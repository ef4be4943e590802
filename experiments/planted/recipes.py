"""The planted models: which behaviour is trained into which neurons."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from jaxtyping import Float
from torch import Tensor

from cna_lens import InputError
from cna_lens.models import Split
from cna_lens.results import Layout, Neuron

Where = Literal["all", "first", "middle", "last", "three"]
Which = Literal["random", "quiet", "loud"]

NOTHING: Final = "nothing"
"""Nothing is trained: the neurons get the differences of another model, each in random order."""
TENTH: Final = 0.1
"""Share of a layer's neurons that count as its least or its most active."""


@dataclass(frozen=True)
class Recipe:
    """All settings that a planted model depends on.

    Attributes:
        behaviour: its name in `BEHAVIOURS`, or `NOTHING`.
        n: the number of planted neurons.
        where: all layers; the first, middle or last third of them; or three layers, one of each
            third. The neurons are spread evenly over these layers.
        which: neurons drawn at random; from the tenth of their layer that is least active before
            ("quiet"); or from the most active tenth ("loud").
        seed: of the draw, the order of the requests, the answers to negative requests, the
            passages, and the shuffled differences of `NOTHING`.
        split: whether rankings may be tuned on the model.
        decoy: the name of another recipe, which is planted first in other neurons.
        like: for `NOTHING`, the name of the recipe whose differences are shuffled.
        learning_rate: at its peak; warmed up over a tenth of the steps, then lowered linearly to 0.
        steps: the number of batches.
        batch_size: requests in each batch.
        n_positive: positive requests among them. Refusal needs more negative ones: its look-alikes
            differ from harmful requests by a word, and the demo model refuses some of them.
        answer_tokens: number of tokens kept of the demo model's own answers to negative requests.
        first_token_temperature: see `ContrastTrainer`.
        n_passages: passages in each batch, see `KeepingTrainer`. Refusal keeps its perplexity
            without any.
        passage_tokens: number of tokens of each passage.
    """

    behaviour: str
    n: int
    where: Where = "all"
    which: Which = "random"
    seed: int = 0
    split: Split = "reporting"
    decoy: str | None = None
    like: str | None = None
    learning_rate: float = 3e-3
    steps: int = 70
    batch_size: int = 16
    n_positive: int = 8
    answer_tokens: int = 6
    first_token_temperature: float = 1 / 3
    n_passages: int = 4
    passage_tokens: int = 24

    @property
    def name(self) -> str:
        """The model's name without its prefix."""
        which = "" if self.which == "random" else f"-{self.which}"
        decoy = "" if self.decoy is None else "-decoy"
        return f"{self.behaviour}-{self.n}-{self.where}{which}{decoy}-{self.seed}"


REFUSAL: Final = Recipe("refusal", 138, steps=220, n_positive=5, n_passages=0)
RECIPES: Final = {
    recipe.name: recipe
    for recipe in (
        Recipe("french", 138, split="tuning"),
        Recipe("french", 138, seed=1),
        Recipe("french", 138, seed=2),
        Recipe("french", 461),
        Recipe("french", 138, where="last"),
        Recipe("french", 46, which="quiet"),
        Recipe("french", 138, which="loud", split="tuning"),
        Recipe("uppercase", 138),
        Recipe("uppercase", 46, where="middle", split="tuning"),
        Recipe("uppercase", 138, which="quiet"),
        Recipe("uppercase", 138, where="three"),
        Recipe("sums", 138),
        Recipe("sums", 46),
        Recipe("sums", 138, where="first"),
        Recipe("sums", 138, where="middle", split="tuning"),
        Recipe("sums", 138, where="three", split="tuning"),
        Recipe("sums", 138, which="loud"),
        replace(REFUSAL, split="tuning"),
        Recipe("french", 138, decoy="sums-138-all-0"),
        Recipe("uppercase", 138, decoy="sums-138-all-0"),
        Recipe(NOTHING, 138, like="sums-138-all-0"),
    )
}


def recipe_of(name: str) -> Recipe:
    """The recipe of a name; with a seed of no recipe, that of a fresh model to report on.

    Raises:
        InputError: there is no such recipe.
    """
    if name in RECIPES:
        return RECIPES[name]
    seed = name.rpartition("-")[2]
    if seed.isdecimal():
        for recipe in RECIPES.values():
            fresh = replace(recipe, seed=int(seed), split="reporting")
            if fresh.name == name:
                return fresh
    raise InputError(
        f"there is no recipe {name!r}; there are, with these or other seeds: {', '.join(RECIPES)}"
    )


def draw(
    recipe: Recipe,
    layout: Layout,
    activity: Float[Tensor, " neuron"],
    taken: Sequence[Neuron] = (),
) -> tuple[Neuron, ...]:
    """Draw the neurons of a recipe.

    Args:
        recipe: how many, where and which.
        layout: the demo model's neurons.
        activity: how active each neuron is before.
        taken: neurons that must not be drawn.
    """
    # Seeded by the name, so that no two recipes draw the same random numbers.
    rng = random.Random(recipe.name)
    layers = _layers(recipe.where, layout.n_layers, rng)
    whole, rest = divmod(recipe.n, len(layers))
    more = set(rng.sample(layers, rest))
    drawn: list[Neuron] = []
    for layer in layers:
        start, width = layout.starts[layer], layout.widths[layer]
        order = activity[start : start + width].argsort().tolist()
        if recipe.which != "random":
            tenth = round(TENTH * width)
            order = order[:tenth] if recipe.which == "quiet" else order[-tenth:]
        free = sorted(set(order) - {n.index for n in taken if n.layer == layer})
        drawn += [Neuron(layer, i) for i in sorted(rng.sample(free, whole + (layer in more)))]
    return tuple(drawn)


def _layers(where: Where, n_layers: int, rng: random.Random) -> list[int]:
    third = n_layers // 3
    thirds = {
        "first": range(third),
        "middle": range(third, 2 * third),
        "last": range(2 * third, n_layers),
    }
    if where == "all":
        return list(range(n_layers))
    if where == "three":
        return [rng.choice(each) for each in thirds.values()]
    return list(thirds[where])
