"""Directional ablation: erase a direction from all that is written to the residual stream."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral
from typing import cast

from cna_lens.errors import InputError
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.inside.sites import residual_writes
from cna_lens.models.prompts.encoding import Chat, Prompt
from cna_lens.models.running.batching import BatchSize
from cna_lens.models.running.positions import Positions, check_positions
from cna_lens.results.provenance import Position
from cna_lens.steering.edits import EraseDirection
from cna_lens.steering.method import Applied, by_hooks, check_strength
from cna_lens.steering.vectors import ControlVectors, check_vectors, difference_of_means


@dataclass(frozen=True, eq=False)
class DirectionalAblation:
    r"""A steering method that erases a direction from everything the residual stream receives.

    $$x \leftarrow x - \alpha \, (x \cdot \hat{r}) \, \hat{r}$$

    with the strength $\alpha$, for everything that is written to the residual stream: the first
    block's input, and the output of each attention and each MLP (after its norm, where the output
    has one). The stream is the sum of these, so the component along r shrinks to $1 - \alpha$ of
    what is written, everywhere; with strength 1 it is 0 up to rounding.

    >>> vectors = difference_of_means(
    ...     tiny_model, ["w5 w6"], ["w7"], site="hook_resid_pre", chat=False
    ... )
    >>> with DirectionalAblation(vectors.at_layer(1)).at(tiny_model) as applied:
    ...     logits = tiny_model(torch.tensor([[1, 2, 3]]))
    >>> applied.hook_points[:3]
    ('blocks.0.hook_resid_pre', 'blocks.0.hook_attn_out', 'blocks.0.hook_mlp_out')

    Attributes:
        direction: the vector of one layer; its length does not matter.
        positions: the tokens to steer, as for `steer`.
        name: the method's name, for tables.
        allow_other_model: accept a direction that was found on a model of another name.
    """

    direction: ControlVectors
    positions: Positions = "all"
    name: str = "directional_ablation"
    allow_other_model: bool = False

    def __post_init__(self) -> None:
        """Reject vectors that are not one direction."""
        check_positions(self.positions)
        if len(self.direction.layers) != 1:
            raise InputError(
                f"there are {len(self.direction.layers)} vectors, expected one direction; take "
                "one layer's: vectors.at_layer(layer)"
            )
        if not bool(self.direction.vectors.any()):
            raise InputError(
                "the direction is zero, because the two sets of prompts do not differ here; take "
                "another layer or token"
            )

    @contextmanager
    def at(self, model: HookedModel, strength: float = 1.0) -> Generator[Applied]:
        """Steer the model within the context.

        Raises:
            InputError: the strength is outside 0 to 1.
            VectorMismatchError: the direction was found on another model.
            ModelError: the model's residual stream cannot be reached.
        """
        check_strength(strength)
        check_vectors(model, self.direction, allow_other_model=self.allow_other_model)
        erase = EraseDirection(self.direction.vectors[0] / self.direction.norms[0], strength)
        hooks = [(name, erase) for name in residual_writes(model)] if strength else []
        with by_hooks(model, self.name, strength, self.positions, hooks) as applied:
            yield applied


def directional_ablation(
    model: HookedModel,
    positive: Sequence[Prompt],
    negative: Sequence[Prompt],
    *,
    layer: int,
    position: Position = -1,
    positions: Positions = "all",
    chat: Chat = "auto",
    batch_size: BatchSize = "auto",
    progress: bool = False,
) -> DirectionalAblation:
    """Make directional ablation of the difference of means at one layer and token.

    The means are those of the residual stream that enters the layer, as in the source (Arditi et
    al. 2024, arXiv 2406.11717). The authors choose the layer among the first 80 %, and the token
    among those after the instruction. To choose both, use `directional_ablation_candidates` and
    `choose`. Cost: one forward pass for each prompt.

    >>> directional_ablation(tiny_model, ["w5 w6"], ["w7"], layer=1, chat=False).direction
    ControlVectors(hook_resid_pre, layer 1 of 2, norm ..., d_model 16, model tiny-llama)

    Args:
        model: a TransformerBridge or HookedTransformer.
        positive: prompts that show the behaviour.
        negative: prompts that do not.
        layer: the block whose input is read.
        position: index of the token to read in the encoded prompt, chat template included and
            padding excluded; -1 is the last. "answer" is the last one before the answer, behind
            the model's own reasoning, which is generated first; see `with_reasoning`.
        positions: the tokens to steer, as for `steer`.
        chat: put strings into the chat template; "auto" where the tokenizer has one.
        batch_size: prompts for each forward pass; "auto" fits them to the free memory.
        progress: show a progress bar.

    Raises:
        InputError: a prompt or a setting cannot be used, the layer does not exist, or the sets do
            not differ there.
        ModelError: the model has no such hook points.
    """
    (method,) = directional_ablation_candidates(
        model,
        positive,
        negative,
        layers=[layer],
        read_at=[position],
        positions=positions,
        chat=chat,
        batch_size=batch_size,
        progress=progress,
    )
    return method


def directional_ablation_candidates(
    model: HookedModel,
    positive: Sequence[Prompt],
    negative: Sequence[Prompt],
    *,
    layers: Iterable[int] | None = None,
    read_at: Iterable[Position] = (-1,),
    positions: Positions = "all",
    chat: Chat = "auto",
    batch_size: BatchSize = "auto",
    progress: bool = False,
) -> tuple[DirectionalAblation, ...]:
    """Make one directional ablation for each layer and token, for `choose` to choose from.

    Cost: one forward pass for each prompt and token, whatever the number of layers.

    >>> candidates = directional_ablation_candidates(
    ...     tiny_model, ["w5 w6"], ["w7 w8 w9"], layers=[1], read_at=[-1, -2], chat=False
    ... )
    >>> [method.name for method in candidates]
    ['directional_ablation(layer=1, position=-1)', 'directional_ablation(layer=1, position=-2)']

    Args:
        model: a TransformerBridge or HookedTransformer.
        positive: prompts that show the behaviour.
        negative: prompts that do not.
        layers: the blocks whose inputs are read. None takes all blocks at whose input the sets
            differ. At a token of the chat template they do not differ at the first block's input.
        read_at: indices of the tokens to read, counted as for the `position` of
            `directional_ablation`.
        positions: the tokens to steer, as for `steer`.
        chat: put strings into the chat template; "auto" where the tokenizer has one.
        batch_size: prompts for each forward pass; "auto" fits them to the free memory.
        progress: show a progress bar.

    Raises:
        InputError: a prompt or a setting cannot be used, a layer does not exist, or the sets do not
            differ at one of the places.
        ModelError: the model has no such hook points.
    """
    for name, given in (("layers", layers), ("read_at", read_at)):
        if isinstance(cast("object", given), str | Integral):
            raise InputError(f"{name} is {given!r}, expected several: [{given!r}]")
    wanted = None if layers is None else tuple(layers)
    found: list[DirectionalAblation] = []
    for position in read_at:
        vectors = difference_of_means(
            model,
            positive,
            negative,
            site="hook_resid_pre",
            position=position,
            chat=chat,
            batch_size=batch_size,
            progress=progress,
        )
        differing = (layer for layer, vector in vectors.items() if bool(vector.any()))
        found += [
            DirectionalAblation(
                vectors.at_layer(layer),
                positions,
                f"directional_ablation(layer={layer}, position={position})",
            )
            for layer in (differing if wanted is None else wanted)
        ]
    return tuple(found)
