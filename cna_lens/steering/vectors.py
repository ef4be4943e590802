"""Control vectors: one for each of some layers, as wide as the residual stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from cna_lens.discovery.activations.means import ActivationStats, RunningMoments
from cna_lens.discovery.activations.reader import Reader
from cna_lens.errors import InputError, VectorMismatchError
from cna_lens.models.hooked_model import HookedModel, model_name
from cna_lens.models.prompts.encoding import Chat, Prompt, encode, warn_about_duplicates
from cna_lens.models.running.batching import BatchSize
from cna_lens.results.provenance import Source

VectorSite = Literal["hook_mlp_out", "hook_resid_pre", "hook_resid_post"]


@dataclass(frozen=True, eq=False)
class ControlVectors:
    """A vector for each of some layers, and where it came from.

    They come from `cna_lens.difference_of_means`, or are made by hand:

    >>> vectors = ControlVectors("hook_resid_post", (1,), torch.tensor([[3.0, 4.0]]).double(), 2)
    >>> vectors
    ControlVectors(hook_resid_post, layer 1 of 2, norm 5, d_model 2, model unknown)

    Attributes:
        site: the hook point of each block at which the vectors were read, and are added.
        layers: the layers that have one.
        vectors: one row a layer.
        n_layers: how many layers the model has.
        model: the model they were found on, None where that is not known.
        positive: what was run for the positive mean, None where that is not known.
        negative: what was run for the negative mean.
    """

    site: VectorSite
    layers: tuple[int, ...]
    vectors: Float64[Tensor, "layer d_model"]
    n_layers: int
    model: str | None = None
    positive: Source | None = None
    negative: Source | None = None

    def __post_init__(self) -> None:
        """Refuse vectors that are not one finite row for each of different layers."""
        if self.vectors.shape[:1] != (len(self.layers),) or not self.layers:
            raise InputError(
                f"there are {len(self.layers)} layers and vectors of shape "
                f"{tuple(self.vectors.shape)}; give one row for each layer"
            )
        if len(set(self.layers)) != len(self.layers):
            raise InputError(f"layers is {self.layers}; name each layer once")
        for layer in self.layers:
            if not 0 <= layer < self.n_layers:
                raise InputError(
                    f"layer {layer} does not exist: the model has layers 0 to {self.n_layers - 1}"
                )
        if not bool(torch.isfinite(self.vectors).all()):
            raise InputError("the vectors hold an infinite value or one that is not a number")

    @property
    def d_model(self) -> int:
        """The width of the residual stream."""
        return self.vectors.shape[1]

    @property
    def norms(self) -> Float64[Tensor, " layer"]:
        """The length of each vector."""
        return self.vectors.norm(dim=1)

    def items(self) -> Iterator[tuple[int, Float64[Tensor, " d_model"]]]:
        """Each layer and its vector."""
        return zip(self.layers, self.vectors, strict=True)

    def at_layer(self, layer: int) -> ControlVectors:
        """The vector of one layer alone.

        Raises:
            InputError: that layer has none.
        """
        if layer not in self.layers:
            raise InputError(
                f"layer {layer} has no vector; the layers that have one are "
                f"{', '.join(map(str, self.layers))}"
            )
        row = self.layers.index(layer)
        return replace(self, layers=(layer,), vectors=self.vectors[row : row + 1])

    def random(self, seed: int = 0) -> ControlVectors:
        """Random directions in their place, each uniform on the sphere and of the same length."""
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(self.vectors.shape, generator=generator, dtype=torch.float64)
        units = drawn / drawn.norm(dim=1, keepdim=True)
        return replace(self, vectors=units * self.norms[:, None], positive=None, negative=None)

    def __repr__(self) -> str:
        """One useful line."""
        layers = (
            f"layer {self.layers[0]} of {self.n_layers}"
            if len(self.layers) == 1
            else f"{len(self.layers)} of {self.n_layers} layers"
        )
        norms = f"{self.norms.min():.3g}"
        if len(self.layers) > 1:
            norms += f" to {self.norms.max():.3g}"
        return (
            f"ControlVectors({self.site}, {layers}, norm {norms}, d_model {self.d_model}, "
            f"model {self.model or 'unknown'})"
        )


def difference_of_means(
    model: HookedModel,
    positive: Sequence[Prompt],
    negative: Sequence[Prompt],
    *,
    site: VectorSite,
    position: int = -1,
    chat: Chat = "auto",
    batch_size: BatchSize = "auto",
    progress: bool = False,
) -> ControlVectors:
    r"""How a layer's vector differs between two sets of prompts, for every layer.

    $$v_l = \frac{1}{n} \sum_{i=1}^{n} x_l(p_i) - \frac{1}{m} \sum_{j=1}^{m} x_l(q_j)$$

    with $x_l(p)$ the vector at the site of layer l and at one token of the prompt p; sums are kept
    in float64, whatever the model's precision. One forward pass a prompt, as for `collect`.

    >>> difference_of_means(tiny_model, ["w5 w6"], ["w7"], site="hook_resid_post", chat=False)
    ControlVectors(hook_resid_post, 2 of 2 layers, norm ... to ..., d_model 16, model tiny-llama)

    Args:
        model: a TransformerBridge or HookedTransformer.
        positive: prompts that show the behaviour: strings, lists of chat messages, or token ids.
        negative: prompts that do not.
        site: "hook_mlp_out", what each MLP adds to the residual stream; "hook_resid_pre" or
            "hook_resid_post", the stream before or after each block.
        position: the token to read, counted in each prompt's own tokens; -1 is the last.
        chat: put strings into the chat template; "auto" where the tokenizer has one.
        batch_size: prompts for each forward pass; "auto" fits them to the free memory.
        progress: show a progress bar.

    Raises:
        InputError: bad prompts, or a position outside one of them.
        ModelError: the model has no such hook points.
        ActivationError: an activation is infinite or not a number.
    """
    reader = Reader(model, position, batch_size, progress, site=site)
    plus, minus = stats_of_both(reader, positive, negative, chat, RunningMoments)
    layers = tuple(layer for layer, width in enumerate(plus.layout.widths) if width)
    return ControlVectors(
        site=site,
        layers=layers,
        vectors=(plus.mean - minus.mean).reshape(len(layers), -1),
        n_layers=plus.layout.n_layers,
        model=model_name(model),
        positive=plus.source,
        negative=minus.source,
    )


def stats_of_both(
    reader: Reader,
    positive: Sequence[Prompt],
    negative: Sequence[Prompt],
    chat: Chat,
    new_moments: Callable[[], RunningMoments],
) -> tuple[ActivationStats, ActivationStats]:
    """The statistics of two sets of prompts, read as one stream."""
    with_behaviour = encode(reader.model, positive, chat=chat, name="positive")
    without = encode(reader.model, negative, chat=chat, name="negative")
    warn_about_duplicates(with_behaviour, without)
    plus, minus = new_moments(), new_moments()
    reader.read([(with_behaviour, plus), (without, minus)])
    return plus.stats(reader.source(with_behaviour)), minus.stats(reader.source(without))


def check_vectors(
    model: HookedModel, vectors: ControlVectors, *, allow_other_model: bool = False
) -> None:
    """Make sure that vectors belong to a model.

    Raises:
        VectorMismatchError: another number of layers, another width, or another name.
    """
    name = model_name(model)
    for what, given, there in (
        ("layers", vectors.n_layers, int(model.cfg.n_layers)),
        ("values for each token (d_model)", vectors.d_model, int(model.cfg.d_model)),
    ):
        if given != there:
            raise VectorMismatchError(
                f"the vectors are of a model with {given} {what}, {name} has {there}; "
                "find them on this model"
            )
    if vectors.model is not None and vectors.model != name and not allow_other_model:
        raise VectorMismatchError(
            f"the vectors were found on {vectors.model}, this model is {name}; find them on this "
            "model, or set allow_other_model=True if that is what you mean"
        )
