"""Control vectors: directions as wide as the residual stream, found at some layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Literal, get_args

import torch
from einops import rearrange
from jaxtyping import Float64
from torch import Tensor

from cna_lens.discovery.activations.means import RunningMoments
from cna_lens.discovery.activations.reader import Reader
from cna_lens.discovery.activations.sets import encode_sets, read_both
from cna_lens.errors import InputError, VectorMismatchError
from cna_lens.models.hooked_model import HookedModel, check_model, model_name
from cna_lens.models.inside.matching import check_belongs
from cna_lens.models.prompts.encoding import Chat, Prompt
from cna_lens.models.running.batching import BatchSize
from cna_lens.results.provenance import Position, Source

VectorSite = Literal["hook_mlp_out", "hook_resid_pre", "hook_resid_post"]


@dataclass(frozen=True, eq=False)
class ControlVectors:
    """A vector for each of some layers, and the prompts it was found on.

    `cna_lens.difference_of_means` finds them; you can also make them by hand:

    >>> vectors = ControlVectors("hook_resid_post", (1,), torch.tensor([[3.0, 4.0]]).double(), 2)
    >>> vectors
    ControlVectors(hook_resid_post, layer 1 of 2, norm 5, d_model 2, model unknown)

    Attributes:
        site: the hook point of each block where the vectors were read, and where they are added.
        layers: the layers that have a vector.
        vectors: one row for each of these layers.
        n_layers: how many layers the model has.
        model: the model they were found on, None where that is not known.
        positive: the source of the positive mean, None where that is not known.
        negative: the source of the negative mean.
    """

    site: VectorSite
    layers: tuple[int, ...]
    vectors: Float64[Tensor, "layer d_model"]
    n_layers: int
    model: str | None = None
    positive: Source | None = None
    negative: Source | None = None

    def __post_init__(self) -> None:
        """Reject vectors unless each of some different layers has one finite row."""
        if self.site not in get_args(VectorSite):
            raise InputError(
                f"site is {self.site!r}, expected one of {', '.join(get_args(VectorSite))}"
            )
        for layer in self.layers:
            if not isinstance(layer, Integral):
                raise InputError(f"layer {layer!r} is no layer; give a whole number")
        if self.vectors.ndim != 2 or len(self.vectors) != len(self.layers) or not self.layers:
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
            raise InputError(
                "a vector holds a value that is infinite or not a number; give finite vectors"
            )

    @property
    def d_model(self) -> int:
        """The width of the residual stream."""
        return self.vectors.shape[1]

    @property
    def norms(self) -> Float64[Tensor, " layer"]:
        """The length of each vector."""
        return self.vectors.norm(dim=1)

    def items(self) -> Iterator[tuple[int, Float64[Tensor, " d_model"]]]:
        """Iterate over each layer with its vector."""
        return zip(self.layers, self.vectors, strict=True)

    def at_layer(self, layer: int) -> ControlVectors:
        """Keep the vector of one layer alone.

        Raises:
            InputError: this layer has no vector.
        """
        if layer not in self.layers:
            raise InputError(
                f"layer {layer} has no vector; the layers that have one are "
                f"{', '.join(map(str, self.layers))}"
            )
        row = self.layers.index(layer)
        return replace(self, layers=(self.layers[row],), vectors=self.vectors[row : row + 1])

    def random(self, seed: int = 0) -> ControlVectors:
        """Replace each vector by a random direction, uniform on the sphere, of the same length."""
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(self.vectors.shape, generator=generator, dtype=torch.float64)
        units = drawn / drawn.norm(dim=1, keepdim=True)
        return replace(self, vectors=units * self.norms[:, None], positive=None, negative=None)

    def __repr__(self) -> str:
        """Name the site, the layers, the norms and the model in one line."""
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
    position: Position = -1,
    chat: Chat = "auto",
    batch_size: BatchSize = "auto",
    progress: bool = False,
) -> ControlVectors:
    r"""Compute how each layer's mean vector differs between two sets of prompts.

    $$v_l = \frac{1}{n} \sum_{i=1}^{n} x_l(p_i) - \frac{1}{m} \sum_{j=1}^{m} x_l(q_j)$$

    where $x_l(p)$ is the vector at the site of layer l, at one token of the prompt p. Sums are kept
    in float64, whatever the model's precision. Cost: one forward pass for each prompt.

    >>> difference_of_means(tiny_model, ["w5 w6"], ["w7"], site="hook_resid_post", chat=False)
    ControlVectors(hook_resid_post, 2 of 2 layers, norm ... to ..., d_model 16, model tiny-llama)

    Args:
        model: a TransformerBridge or HookedTransformer.
        positive: prompts that show the behaviour: strings, lists of chat messages, or token ids.
        negative: prompts that do not.
        site: "hook_mlp_out" for the output of each MLP; "hook_resid_pre" or "hook_resid_post" for
            the residual stream before or after each block.
        position: index of the token to read in the encoded prompt, chat template included and
            padding excluded; -1 is the last. "answer" is the last one before the answer, behind
            the model's own reasoning, which is generated first; see `with_reasoning`.
        chat: put strings into the chat template; "auto" where the tokenizer has one.
        batch_size: prompts for each forward pass; "auto" fits them to the free memory.
        progress: show a progress bar.

    Raises:
        InputError: a prompt cannot be used, or has no token at the position.
        ModelError: the model has no such hook points.
        ActivationError: an activation is infinite or not a number.

    Warns:
        CnaLensWarning: a prompt stands in one set twice, or in both.
    """
    reader = Reader(model, position, batch_size, progress, site=site)
    sets = encode_sets(model, positive, negative, chat, position)
    plus, minus = (side.stats() for side in read_both(reader, sets, RunningMoments))
    layers = tuple(layer for layer, width in enumerate(plus.layout.widths) if width)
    return ControlVectors(
        site=site,
        layers=layers,
        vectors=rearrange(
            plus.mean - minus.mean, "(layer d_model) -> layer d_model", layer=len(layers)
        ),
        n_layers=plus.layout.n_layers,
        model=model_name(model),
        positive=plus.source,
        negative=minus.source,
    )


def check_vectors(
    model: HookedModel, vectors: ControlVectors, *, allow_other_model: bool = False
) -> None:
    """Check that vectors belong to a model.

    Raises:
        VectorMismatchError: the model has another number of layers, another width, or another name.
    """
    check_model(model)
    check_belongs(
        "the vectors",
        VectorMismatchError,
        model,
        sizes=[
            (vectors.n_layers, int(model.cfg.n_layers), "layers"),
            (vectors.d_model, int(model.cfg.d_model), "values for each token (d_model)"),
        ],
        found_on=vectors.model,
        allow_other_model=allow_other_model,
    )
