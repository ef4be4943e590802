"""Find features of a sparse autoencoder by the same contrast as neurons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from cna_lens.discovery.activations.means import RunningMoments
from cna_lens.discovery.activations.reader import Reader
from cna_lens.discovery.activations.sets import encode_sets, read_both
from cna_lens.errors import ActivationError, InputError
from cna_lens.models.hooked_model import HookedModel, model_name
from cna_lens.models.prompts.encoding import Chat, Prompt
from cna_lens.models.running.batching import BatchSize
from cna_lens.results.layout import Layout
from cna_lens.results.neurons import Sign
from cna_lens.results.provenance import Position, Source
from cna_lens.results.scores import check_selection, circuit_size
from cna_lens.steering.methods.sae.autoencoder import (
    SparseAutoencoder,
    check_fits,
    features_of,
    place_of,
)


@dataclass(frozen=True, eq=False)
class SaeFeatures:
    """Some features of a sparse autoencoder, strongest first, each with its signed score.

    `sae_features` finds them; you can also make them by hand. Without its autoencoder a feature is
    only a number, so the two are kept together.

    >>> SaeFeatures(tiny_sae, (7, 3), (2.5, -1.0))
    SaeFeatures(2 of 40 features at blocks.1.hook_resid_post, strongest 7 +2.5, model unknown)

    Attributes:
        sae: the autoencoder.
        indices: the features, strongest first.
        scores: their signed scores in the same order.
        active: the features that were active on any of the prompts, from which `random` draws.
        model: the model they were found on, None where that is not known.
        positive: the source of the positive mean, None where that is not known.
        negative: the source of the negative mean.
    """

    sae: SparseAutoencoder = field(repr=False)
    indices: tuple[int, ...]
    scores: tuple[float, ...]
    active: tuple[int, ...] = field(default=(), repr=False)
    model: str | None = None
    positive: Source | None = None
    negative: Source | None = None

    def __post_init__(self) -> None:
        """Require distinct features of the autoencoder, with a score each."""
        place_of(self.sae)
        if len(self.indices) != len(self.scores):
            raise InputError(
                f"{len(self.indices)} features came with {len(self.scores)} scores; give one score "
                "for each feature"
            )
        if len(set(self.indices)) != len(self.indices):
            raise InputError(f"features is {self.indices}; name each feature once")
        for index in (*self.indices, *self.active):
            if not 0 <= index < self.n_features:
                raise InputError(
                    f"feature {index} does not exist: the autoencoder has features 0 to "
                    f"{self.n_features - 1}"
                )

    @property
    def n_features(self) -> int:
        """How many features the autoencoder has."""
        return int(self.sae.cfg.d_sae)

    @property
    def hook_point(self) -> str:
        """The hook point that the autoencoder reads, and at which the features are changed."""
        return place_of(self.sae).hook_point

    def __len__(self) -> int:
        """Number of features chosen."""
        return len(self.indices)

    def random(self, seed: int = 0) -> SaeFeatures:
        """Draw a control: as many other features that were active on the prompts.

        Most features of an autoencoder are silent on any one kind of prompt. A control drawn from
        all of them would have no effect, and any features would look good beside it.

        Raises:
            InputError: too few other features were active.
        """
        others = sorted(set(self.active) - set(self.indices))
        if len(others) < len(self):
            raise InputError(
                f"{len(others)} other features were active on the prompts, a control needs "
                f"{len(self)}; choose fewer features, or run more prompts"
            )
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randperm(len(others), generator=generator)[: len(self)].tolist()
        chosen = tuple(others[place] for place in drawn)
        return replace(self, indices=chosen, scores=(0.0,) * len(chosen))

    def __repr__(self) -> str:
        """Name the counts, the hook point, the strongest feature and the model in one line."""
        strongest = f"strongest {self.indices[0]} {self.scores[0]:+.3g}, " if self.indices else ""
        return (
            f"SaeFeatures({len(self)} of {self.n_features} features at {self.hook_point}, "
            f"{strongest}model {self.model or 'unknown'})"
        )


def sae_features(
    model: HookedModel,
    sae: SparseAutoencoder,
    positive: Sequence[Prompt],
    negative: Sequence[Prompt],
    *,
    k: int | None = None,
    fraction: float | None = None,
    sign: Sign = "abs",
    position: Position = -1,
    chat: Chat = "auto",
    batch_size: BatchSize = "auto",
    progress: bool = False,
) -> SaeFeatures:
    r"""Find the features of a sparse autoencoder that differ most between two sets of prompts.

    $$\delta_i = \frac{1}{|P|} \sum_{p \in P} f_i(x(p)) - \frac{1}{|N|} \sum_{n \in N} f_i(x(n))$$

    where x is the activation at the autoencoder's hook point, at one token of the prompt, and f are
    the autoencoder's features: CNA's ranking (arXiv 2605.12290, method, step 3) with features in
    place of neurons. A feature that does not differ is never chosen. Cost: one forward pass for
    each prompt, up to the autoencoder's layer.

    >>> features = sae_features(tiny_model, tiny_sae, ["w5 w6"], ["w7"], k=3, chat=False)
    >>> len(features), features.hook_point
    (3, 'blocks.1.hook_resid_post')

    Args:
        model: a TransformerBridge or HookedTransformer.
        sae: the autoencoder, from `load_sae` or SAELens.
        positive: prompts that show the behaviour: strings, lists of chat messages, or token ids.
        negative: prompts that do not.
        k: the number of features.
        fraction: their share of all features of the autoencoder, instead of k.
        sign: "abs" takes the largest differences of either sign, "positive" or "negative" only
            those of one sign.
        position: index of the token to read in the encoded prompt, chat template included and
            padding excluded; -1 is the last. "answer" is the last one before the answer, behind
            the model's own reasoning, which is generated first; see `with_reasoning`.
        chat: put strings into the chat template; "auto" where the tokenizer has one.
        batch_size: prompts for each forward pass; "auto" fits them to the free memory.
        progress: show a progress bar.

    Raises:
        InputError: a prompt, a setting or the autoencoder cannot be used, or fewer features differ
            than were asked for.
        VectorMismatchError: the autoencoder is of a model of another width.
        ModelError: the model has no such hook point.
        ActivationError: an activation or a feature is infinite or not a number.

    Warns:
        CnaLensWarning: a prompt stands in one set twice, or in both.
    """
    check_selection(fraction, k, sign)
    place = check_fits(model, sae)
    n_features = int(sae.cfg.d_sae)
    if k is not None and k > n_features:
        raise InputError(f"k is {k}, the autoencoder has {n_features} features; ask for fewer")
    size = circuit_size(n_features, fraction, k)
    reader = Reader(model, position, batch_size, progress, site=place.site, layer=place.layer)
    sets = encode_sets(model, positive, negative, chat, position)
    moments = read_both(reader, sets, lambda source: _FeatureMoments(source, sae))
    plus, minus = (side.stats() for side in moments)
    scores = plus.mean - minus.mean
    chosen = _strongest(scores, size, sign)
    active: list[int] = ((plus.mean != 0) | (minus.mean != 0)).nonzero().squeeze(1).tolist()
    return SaeFeatures(
        sae=sae,
        indices=tuple(chosen),
        scores=tuple(float(scores[index]) for index in chosen),
        active=tuple(active),
        model=model_name(model),
        positive=plus.source,
        negative=minus.source,
    )


class _FeatureMoments(RunningMoments):
    """Gathers the statistics of the features in place of the activations."""

    def __init__(self, source: Source, sae: SparseAutoencoder) -> None:
        super().__init__(source)
        self.sae = sae

    def update(
        self,
        rows: Sequence[int],
        activations: Float[Tensor, "prompt d_in"],
        layout: Layout,  # noqa: ARG002 (the features have another layout)
        route_weights: Tensor | None = None,  # noqa: ARG002 (autoencoders read no experts)
    ) -> None:
        with torch.no_grad():
            features = features_of(self.sae, activations)
        if len(broken := (~features.isfinite().all(0)).nonzero()):
            raise ActivationError(
                f"the autoencoder gives infinite or not-a-number activations for {len(broken)} of "
                f"{features.shape[-1]} features, feature {int(broken[0])} among them; load it in "
                "float32 or bfloat16, and check its weights"
            )
        super().update(rows, features, Layout((features.shape[-1],)))


def _strongest(scores: Float64[Tensor, " feature"], size: int, sign: Sign) -> list[int]:
    allowed = {"abs": scores != 0, "positive": scores > 0, "negative": scores < 0}[sign]
    candidates = allowed.nonzero().squeeze(1)
    if len(candidates) < size:
        raise InputError(
            f"{size} features were asked for, {len(candidates)} of {len(scores)} differ between "
            f"the sets (sign={sign!r}); ask for fewer, or run more prompts"
        )
    order = torch.sort(scores[candidates].abs(), descending=True, stable=True).indices[:size]
    return candidates[order].tolist()
