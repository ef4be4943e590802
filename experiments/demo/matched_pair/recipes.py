"""Training recipes: all settings that an adapter depends on."""

from __future__ import annotations

from dataclasses import dataclass

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Recipe:
    """A LoRA recipe for the demo model.

    Attributes:
        name: of the adapter, and of its folder.
        modules: the projections that get an adapter.
        layers: the blocks that get one; None for all of them.
        rank: of the two factors.
        learning_rate: at its peak; warmed up over a tenth of the steps, then lowered to 0 linearly.
        epochs: passes over the training set.
        batch_size: examples in each step.
        harmful_wordings: number of wordings of each harmful action.
        benign_wordings: number of wordings of each benign look-alike.
        answer_tokens: number of tokens kept of the model's own answers to benign requests.
        first_token_temperature: temperature of the untrained model's prediction of a benign
            answer's first token, which is the target. Below 1 it is sharper. An answer may begin in
            many ways and a refusal in few: at 1 the likeliest token is "I" long before a refusal is
            likely.
        gain: the factor of the trained adapter. Trained on one kind of wording, its refusals of
            other wordings are right but too weak.
        seed: of the answers, the order and the adapter's first weights.
    """

    name: str
    modules: tuple[str, ...]
    layers: tuple[int, ...] | None = None
    rank: int = 8
    learning_rate: float = 8e-4
    epochs: float = 3.5
    batch_size: int = 16
    harmful_wordings: int = 2
    benign_wordings: int = 2
    answer_tokens: int = 4
    first_token_temperature: float = 1 / 3
    gain: float = 1.5
    seed: int = 0

    @property
    def lora_alpha(self) -> int:
        """LoRA's alpha in training; the adapter is saved with `gain` times as much."""
        return 2 * self.rank


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("demo-refusal", modules=(*ATTENTION, *MLP), layers=tuple(range(10, 30))),
        Recipe("demo-refusal-late", modules=MLP, layers=tuple(range(20, 30)), rank=16, epochs=2),
    )
}
