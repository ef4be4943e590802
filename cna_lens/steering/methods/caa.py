"""Contrastive Activation Addition: a vector is added, or taken away, wherever the model writes."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

from cna_lens.errors import InputError
from cna_lens.models.hooked_model import HookedModel, check_model
from cna_lens.models.prompts.encoding import Chat, Prompt
from cna_lens.models.running.batching import BatchSize
from cna_lens.models.running.positions import Positions, check_positions
from cna_lens.steering.edits import AddVector
from cna_lens.steering.method import Applied, check_strength
from cna_lens.steering.scaling import check_multiplier, hooked
from cna_lens.steering.vectors import ControlVectors, VectorSite, check_vectors, difference_of_means

Sign = Literal["subtract", "add"]


@dataclass(frozen=True, eq=False)
class VectorAddition:
    r"""Adds control vectors, or takes them away; a steering method.

    $$x_l \leftarrow x_l \pm \alpha \, c \, v_l$$

    with the strength $\alpha$ and the coefficient c, at the vectors' own hook points.

    >>> vectors = difference_of_means(
    ...     tiny_model, ["w5 w6"], ["w7"], site="hook_resid_post", chat=False
    ... )
    >>> with VectorAddition(vectors.at_layer(1)).at(tiny_model, 0.5) as applied:
    ...     logits = tiny_model(torch.tensor([[1, 2, 3]]))
    >>> applied.hook_points
    ('blocks.1.hook_resid_post',)

    Attributes:
        vectors: a vector for each layer that is steered.
        coefficient: what they are multiplied with at strength 1.
        sign: "subtract" weakens what the positive prompts show, "add" strengthens it.
        positions: at which tokens.
        name: what tables call it.
        allow_other_model: accept vectors that were found on a model of another name.
    """

    vectors: ControlVectors
    coefficient: float = 1.0
    sign: Sign = "subtract"
    positions: Positions = "all"
    name: str = "caa"
    allow_other_model: bool = False

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
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
        check_model(model)
        check_vectors(model, self.vectors, allow_other_model=self.allow_other_model)
        factor = strength * self.coefficient * (1 if self.sign == "add" else -1)
        # Adding zero would still turn a negative zero into a positive one.
        hooks = [
            (f"blocks.{layer}.{self.vectors.site}", AddVector(factor * vector))
            for layer, vector in self.vectors.items()
            if factor and bool(vector.any())
        ]
        with hooked(model, hooks, self.positions):
            via = "hooks" if hooks else "nothing"
            yield Applied(self.name, strength, self.positions, via, tuple(at for at, _ in hooks))


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
    position: int = -1,
    chat: Chat = "auto",
    batch_size: BatchSize = "auto",
    progress: bool = False,
) -> VectorAddition:
    """Contrastive Activation Addition with vectors from two sets of prompts.

    At "hook_mlp_out" it is what CNA's paper compares with (arXiv 2605.12290, method, step 7): the
    difference of the mean MLP outputs at the last token, at every layer at once. The authors' code
    adds positive minus negative, which strengthens the behaviour; here it is taken away unless
    `sign="add"`. At "hook_resid_post" it is the original (Rimsky et al. 2024, arXiv 2312.06681):
    the residual stream of one layer, which `caa_candidates` and `choose` find. One forward pass a
    prompt.

    >>> caa(tiny_model, ["w5 w6"], ["w7"], chat=False).vectors.layers
    (0, 1)

    Args:
        model: a TransformerBridge or HookedTransformer.
        positive: prompts that show the behaviour.
        negative: prompts that do not.
        site: where the vectors are read and added.
        layer: steer at this layer alone; None for all, at "hook_mlp_out" only.
        sign: "subtract" removes the behaviour, "add" amplifies it.
        coefficient: what the vectors are multiplied with at strength 1.
        positions: which tokens are steered, as for `steer`.
        position: the token to read, counted in each prompt's own tokens; -1 is the last.
        chat: put strings into the chat template; "auto" where the tokenizer has one.
        batch_size: prompts for each forward pass; "auto" fits them to the free memory.
        progress: show a progress bar.

    Raises:
        InputError: bad prompts or settings; no layer for the residual stream.
        ModelError: the model has no such hook points.
    """
    if layer is None and site != "hook_mlp_out":
        raise InputError(
            f"layer is None, and {site} needs one: what is added at one layer is still there at "
            "the next. Give a layer, or choose one among caa_candidates(...)"
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
    position: int = -1,
    chat: Chat = "auto",
    batch_size: BatchSize = "auto",
    progress: bool = False,
) -> tuple[VectorAddition, ...]:
    """One `caa` for each layer, from one forward pass a prompt, for `choose` to choose from.

    >>> [method.name for method in caa_candidates(tiny_model, ["w5 w6"], ["w7"], chat=False)]
    ['caa(layer=0)', 'caa(layer=1)']

    Args:
        model: a TransformerBridge or HookedTransformer.
        positive: prompts that show the behaviour.
        negative: prompts that do not.
        layers: the layers to try, None for all.
        site: where the vectors are read and added.
        sign: "subtract" removes the behaviour, "add" amplifies it.
        coefficient: what the vectors are multiplied with at strength 1.
        positions: which tokens are steered, as for `steer`.
        position: the token to read, counted in each prompt's own tokens; -1 is the last.
        chat: put strings into the chat template; "auto" where the tokenizer has one.
        batch_size: prompts for each forward pass; "auto" fits them to the free memory.
        progress: show a progress bar.

    Raises:
        InputError: bad prompts or settings, or a layer that has no vector.
        ModelError: the model has no such hook points.
    """
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
