"""Contrastive Activation Addition: add vectors to the residual stream, or subtract them."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral
from typing import Literal, cast, get_args

from cna_lens.errors import InputError
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.prompts.encoding import Chat, Prompt
from cna_lens.models.running.batching import BatchSize
from cna_lens.models.running.positions import Positions, check_positions
from cna_lens.results.provenance import Position
from cna_lens.steering.edits import AddVector
from cna_lens.steering.method import Applied, by_hooks, check_strength
from cna_lens.steering.scaling import check_multiplier
from cna_lens.steering.vectors import ControlVectors, VectorSite, check_vectors, difference_of_means

Sign = Literal["subtract", "add"]


@dataclass(frozen=True, eq=False)
class VectorAddition:
    r"""A steering method that adds control vectors, or subtracts them.

    $$x_l \leftarrow x_l \pm \alpha \, c \, v_l$$

    Here $x_l$ is the activation of layer l at the hook point where the vectors were read, $v_l$ its
    vector, $\alpha$ the strength and c the coefficient.

    >>> vectors = difference_of_means(
    ...     tiny_model, ["w5 w6"], ["w7"], site="hook_resid_post", chat=False
    ... )
    >>> with VectorAddition(vectors.at_layer(1)).at(tiny_model, 0.5) as applied:
    ...     logits = tiny_model(torch.tensor([[1, 2, 3]]))
    >>> applied.hook_points
    ('blocks.1.hook_resid_post',)

    Attributes:
        vectors: a vector for each layer that is steered.
        coefficient: the factor of the vectors at strength 1.
        sign: "subtract" weakens the behaviour of the positive prompts, "add" strengthens it.
        positions: the tokens to steer, as for `steer`.
        name: the method's name, for tables.
        allow_other_model: accept vectors that were found on a model of another name.
    """

    vectors: ControlVectors
    coefficient: float = 1.0
    sign: Sign = "subtract"
    positions: Positions = "all"
    name: str = "caa"
    allow_other_model: bool = False

    def __post_init__(self) -> None:
        """Reject invalid settings."""
        check_multiplier(self.coefficient, "coefficient")
        check_positions(self.positions)
        if self.sign not in get_args(Sign):
            raise InputError(f"sign is {self.sign!r}, expected one of {', '.join(get_args(Sign))}")

    @contextmanager
    def at(self, model: HookedModel, strength: float = 1.0) -> Generator[Applied]:
        """Steer the model within the context.

        Raises:
            InputError: the strength is outside 0 to 1.
            VectorMismatchError: the vectors were found on another model.
        """
        check_strength(strength)
        check_vectors(model, self.vectors, allow_other_model=self.allow_other_model)
        factor = strength * self.coefficient * (1 if self.sign == "add" else -1)
        # Adding zero would still turn a negative zero into a positive one.
        hooks = [
            (f"blocks.{layer}.{self.vectors.site}", AddVector(factor * vector))
            for layer, vector in self.vectors.items()
            if factor and bool(vector.any())
        ]
        with by_hooks(model, self.name, strength, self.positions, hooks) as applied:
            yield applied


def caa(
    model: HookedModel,
    positive: Sequence[Prompt],
    negative: Sequence[Prompt],
    *,
    site: VectorSite = "hook_mlp_out",
    layer: int | None = None,
    sign: Sign = "subtract",
    coefficient: float = 1.0,
    positions: Positions = "all",
    position: Position = -1,
    chat: Chat = "auto",
    batch_size: BatchSize = "auto",
    progress: bool = False,
) -> VectorAddition:
    """Make Contrastive Activation Addition with vectors from two sets of prompts.

    At the site "hook_mlp_out" this is the baseline of CNA's paper (arXiv 2605.12290, method, step
    7): the difference of the mean MLP outputs at the last token, at every layer at once. The
    authors' code adds positive minus negative, which strengthens the behaviour; here the difference
    is subtracted unless `sign="add"`. At "hook_resid_post" this is the original method (Rimsky et
    al. 2024, arXiv 2312.06681): it changes the residual stream at one layer; `caa_candidates` makes
    one method per layer, and `choose` picks the best. Cost: one forward pass for each prompt.

    >>> caa(tiny_model, ["w5 w6"], ["w7"], chat=False).vectors.layers
    (0, 1)

    Args:
        model: a TransformerBridge or HookedTransformer.
        positive: prompts that show the behaviour.
        negative: prompts that do not.
        site: where the vectors are read and added.
        layer: steer at this layer alone. None steers all layers, and is allowed only at
            "hook_mlp_out".
        sign: "subtract" weakens the behaviour, "add" strengthens it.
        coefficient: the factor of the vectors at strength 1.
        positions: the tokens to steer, as for `steer`.
        position: index of the token to read in the encoded prompt, chat template included and
            padding excluded; -1 is the last. "answer" is the last one before the answer, behind
            the model's own reasoning, which is generated first; see `with_reasoning`.
        chat: put strings into the chat template; "auto" where the tokenizer has one.
        batch_size: prompts for each forward pass; "auto" fits them to the free memory.
        progress: show a progress bar.

    Raises:
        InputError: bad prompts or settings, or `layer` is None at a site of the residual stream.
        ModelError: the model has no such hook points.
    """
    if layer is None and site != "hook_mlp_out":
        raise InputError(
            f"layer is None, and {site} needs one, because the residual stream keeps what is added "
            "at one layer at all later ones; give a layer, or choose one of caa_candidates(...)"
        )
    vectors = difference_of_means(
        model,
        positive,
        negative,
        site=site,
        position=position,
        chat=chat,
        batch_size=batch_size,
        progress=progress,
    )
    if layer is not None:
        vectors = vectors.at_layer(layer)
    return VectorAddition(vectors, coefficient, sign, positions)


def caa_candidates(
    model: HookedModel,
    positive: Sequence[Prompt],
    negative: Sequence[Prompt],
    *,
    layers: Iterable[int] | None = None,
    site: VectorSite = "hook_resid_post",
    sign: Sign = "subtract",
    coefficient: float = 1.0,
    positions: Positions = "all",
    position: Position = -1,
    chat: Chat = "auto",
    batch_size: BatchSize = "auto",
    progress: bool = False,
) -> tuple[VectorAddition, ...]:
    """Make one `caa` for each layer, for `choose` to choose from.

    Cost: one forward pass for each prompt, whatever the number of layers.

    >>> [method.name for method in caa_candidates(tiny_model, ["w5 w6"], ["w7"], chat=False)]
    ['caa(layer=0)', 'caa(layer=1)']

    Args:
        model: a TransformerBridge or HookedTransformer.
        positive: prompts that show the behaviour.
        negative: prompts that do not.
        layers: the layers to try, None for all.
        site: the hook point where the vectors are read and added.
        sign: "subtract" weakens the behaviour, "add" strengthens it.
        coefficient: the factor of the vectors at strength 1.
        positions: the tokens to steer, as for `steer`.
        position: index of the token to read in the encoded prompt, chat template included and
            padding excluded; -1 is the last. "answer" is the last one before the answer, behind
            the model's own reasoning, which is generated first; see `with_reasoning`.
        chat: put strings into the chat template; "auto" where the tokenizer has one.
        batch_size: prompts for each forward pass; "auto" fits them to the free memory.
        progress: show a progress bar.

    Raises:
        InputError: bad prompts or settings, or a layer that has no vector.
        ModelError: the model has no such hook points.
    """
    if isinstance(cast("object", layers), Integral):
        raise InputError(f"layers is {layers}, expected several: [{layers}]")
    vectors = difference_of_means(
        model,
        positive,
        negative,
        site=site,
        position=position,
        chat=chat,
        batch_size=batch_size,
        progress=progress,
    )
    return tuple(
        VectorAddition(vectors.at_layer(layer), coefficient, sign, positions, f"caa(layer={layer})")
        for layer in (vectors.layers if layers is None else layers)
    )
