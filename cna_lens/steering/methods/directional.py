"""Directional ablation: a direction of the residual stream that nothing can write any more."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from cna_lens.errors import InputError
from cna_lens.models.hooked_model import HookedModel, check_model
from cna_lens.models.inside.sites import residual_writes
from cna_lens.models.prompts.encoding import Chat, Prompt
from cna_lens.models.running.batching import BatchSize
from cna_lens.models.running.positions import Positions, check_positions
from cna_lens.steering.edits import EraseDirection
from cna_lens.steering.method import Applied, check_strength
from cna_lens.steering.scaling import hooked
from cna_lens.steering.vectors import ControlVectors, check_vectors, difference_of_means


@dataclass(frozen=True, eq=False)
class DirectionalAblation:
    r"""Erases a direction from all that is written to the residual stream; a steering method.

    $$x \leftarrow x - \alpha \, (x \cdot \hat{r}) \, \hat{r}$$

    with the strength $\alpha$, for everything that is written to the residual stream: the first
    block's input, and the outputs of each attention and each MLP (after a norm on them where there
    is one). The stream is the sum of these, so that no more than $1 - \alpha$ of what is written
    along r is ever in it: with strength 1 nothing, anywhere, up to rounding.

    >>> vectors = difference_of_means(
    ...     tiny_model, ["w5 w6"], ["w7"], site="hook_resid_pre", chat=False
    ... )
    >>> with DirectionalAblation(vectors.at_layer(1)).at(tiny_model) as applied:
    ...     logits = tiny_model(torch.tensor([[1, 2, 3]]))
    >>> applied.hook_points[:3]
    ('blocks.0.hook_resid_pre', 'blocks.0.hook_attn_out', 'blocks.0.hook_mlp_out')

    Attributes:
        direction: the vector of one layer; its length does not matter.
        positions: at which tokens.
        name: what tables call it.
        allow_other_model: accept a direction that was found on a model of another name.
    """

    direction: ControlVectors
    positions: Positions = "all"
    name: str = "directional_ablation"
    allow_other_model: bool = False

    def __post_init__(self) -> None:
        """Refuse what is not one direction."""
        check_positions(self.positions)
        if len(self.direction.layers) != 1:
            raise InputError(
                f"there are {len(self.direction.layers)} vectors, one direction is erased; take "
                "that of a layer: vectors.at_layer(layer)"
            )
        if not bool(self.direction.vectors.any()):
            raise InputError(
                "the direction is zero, so that there is nothing to erase; the two sets of prompts "
                "do not differ here"
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
        check_model(model)
        check_vectors(model, self.direction, allow_other_model=self.allow_other_model)
        places = residual_writes(model) if strength else ()
        erase = EraseDirection(self.direction.vectors[0] / self.direction.norms[0], strength)
        with hooked(model, [(name, erase) for name in places], self.positions):
            via = "hooks" if places else "nothing"
            yield Applied(self.name, strength, self.positions, via, places)


def directional_ablation(
    model: HookedModel,
    positive: Sequence[Prompt],
    negative: Sequence[Prompt],
    *,
    layer: int,
    position: int = -1,
    positions: Positions = "all",
    chat: Chat = "auto",
    batch_size: BatchSize = "auto",
    progress: bool = False,
) -> DirectionalAblation:
    """Directional ablation of the difference of means at one layer and token.

    The direction is that of the stream which enters the layer, as in the source (Arditi et al.
    2024, arXiv 2406.11717). They choose the layer, among the first 80 %, and the token, among those
    behind the instruction: see `directional_ablation_candidates` and `choose`. One forward pass a
    prompt.

    >>> directional_ablation(tiny_model, ["w5 w6"], ["w7"], layer=1, chat=False).direction
    ControlVectors(hook_resid_pre, layer 1 of 2, norm ..., d_model 16, model tiny-llama)

    Args:
        model: a TransformerBridge or HookedTransformer.
        positive: prompts that show the behaviour.
        negative: prompts that do not.
        layer: the block whose input is read.
        position: the token to read, counted in each prompt's own tokens; -1 is the last.
        positions: which tokens are steered, as for `steer`.
        chat: put strings into the chat template; "auto" where the tokenizer has one.
        batch_size: prompts for each forward pass; "auto" fits them to the free memory.
        progress: show a progress bar.

    Raises:
        InputError: bad prompts or settings, a layer that does not exist, or sets that do not differ
            there.
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
    read_at: Iterable[int] = (-1,),
    positions: Positions = "all",
    chat: Chat = "auto",
    batch_size: BatchSize = "auto",
    progress: bool = False,
) -> tuple[DirectionalAblation, ...]:
    """One directional ablation for each layer and token read, for `choose` to choose from.

    One forward pass a prompt and token, whatever the number of layers.

    >>> candidates = directional_ablation_candidates(
    ...     tiny_model, ["w5 w6"], ["w7 w8 w9"], layers=[1], read_at=[-1, -2], chat=False
    ... )
    >>> [method.name for method in candidates]
    ['directional_ablation(layer=1, position=-1)', 'directional_ablation(layer=1, position=-2)']

    Args:
        model: a TransformerBridge or HookedTransformer.
        positive: prompts that show the behaviour.
        negative: prompts that do not.
        layers: the blocks whose inputs are read; None for all where the sets differ, which they do
            not in the first block's input at a token of the chat template.
        read_at: the tokens to read, counted in each prompt's own tokens.
        positions: which tokens are steered, as for `steer`.
        chat: put strings into the chat template; "auto" where the tokenizer has one.
        batch_size: prompts for each forward pass; "auto" fits them to the free memory.
        progress: show a progress bar.

    Raises:
        InputError: bad prompts or settings, a layer that does not exist, or sets that do not differ
            at one of the places.
        ModelError: the model has no such hook points.
    """
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
        differing = (
            layer for layer in vectors.layers if bool(vectors.at_layer(layer).vectors.any())
        )
        found += [
            DirectionalAblation(
                vectors.at_layer(layer),
                positions,
                f"directional_ablation(layer={layer}, position={position})",
            )
            for layer in (differing if wanted is None else wanted)
        ]
    return tuple(found)
