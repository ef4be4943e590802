"""A steering method that ablates or amplifies features of a sparse autoencoder."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cna_lens.errors import VectorMismatchError
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.inside.matching import check_belongs
from cna_lens.models.running.positions import Positions, check_positions
from cna_lens.steering.method import Applied, by_hooks, check_strength
from cna_lens.steering.methods.sae.autoencoder import SparseAutoencoder, check_fits, features_of
from cna_lens.steering.methods.sae.features import SaeFeatures
from cna_lens.steering.scaling import check_multiplier


@dataclass(frozen=True, eq=False)
class FeatureScaling:
    r"""A steering method that multiplies features' activations and keeps everything else.

    $$x \leftarrow x + \sum_i (m_\alpha - 1) \, f_i(x) \, d_i, \qquad
    m_\alpha = 1 - \alpha (1 - m)$$

    with the strength $\alpha$, the multiplier m at strength 1 (0 ablates), and the activation $f_i$
    and decoder direction $d_i$ of feature i. Only the change of the features' contribution is
    added. The part of the activation that the autoencoder fails to reconstruct therefore stays: the
    error term of Marks et al. 2024 (arXiv 2403.19647) and of Templeton et al. 2024 (Scaling
    Monosemanticity). A token at which none of the features is active keeps its activation.
    Autoencoders are those of SAELens (Bloom et al. 2024).

    >>> features = sae_features(tiny_model, tiny_sae, ["w5 w6"], ["w7"], k=3, chat=False)
    >>> for method in (FeatureScaling(features), FeatureScaling(features.random(), name="random")):
    ...     with method.at(tiny_model) as applied:
    ...         logits = tiny_model(torch.tensor([[1, 2, 3]]))
    >>> applied.hook_points
    ('blocks.1.hook_resid_post',)

    Attributes:
        features: the features to scale, with their autoencoder.
        multiplier: the factor at strength 1: 0 ablates, above 1 amplifies.
        positions: the tokens to steer, as for `steer`.
        name: the method's name, for tables.
        allow_other_model: accept features that were found on a model of another name.
    """

    features: SaeFeatures
    multiplier: float = 0.0
    positions: Positions = "all"
    name: str = "sae"
    allow_other_model: bool = False

    def __post_init__(self) -> None:
        """Reject invalid settings."""
        check_multiplier(self.multiplier)
        check_positions(self.positions)

    @contextmanager
    def at(self, model: HookedModel, strength: float = 1.0) -> Generator[Applied]:
        """Steer the model within the context; the autoencoder runs once in each forward pass.

        Raises:
            InputError: the strength is outside 0 to 1.
            VectorMismatchError: the features were found on another model, or the autoencoder is
                of a model of another width.
            ModelError: the model has no such hook point.
        """
        check_strength(strength)
        features = self.features
        check_fits(model, features.sae)
        check_belongs(
            "the features",
            VectorMismatchError,
            model,
            found_on=features.model,
            allow_other_model=self.allow_other_model,
        )
        change = -strength * (1 - self.multiplier)
        scaling = _ScaleFeatures(features.sae, features.indices, change)
        hooks = [(features.hook_point, scaling)] if change and features.indices else []
        with by_hooks(model, self.name, strength, self.positions, hooks) as applied:
            yield applied


@dataclass(frozen=True)
class _ScaleFeatures:
    """Adds the change of the features' contribution to the activation."""

    sae: SparseAutoencoder
    indices: Sequence[int]
    change: float

    def __call__(self, activation: Tensor, hook: Any) -> Tensor:  # noqa: ARG002
        features = features_of(self.sae, activation)
        indices = list(self.indices)
        difference = torch.zeros_like(features)
        difference[..., indices] = self.change * features[..., indices]
        # Decoded beside zero features, so that the decoder's bias cancels; in one call, because
        # SAELens forgets how it normalised an activation once it has decoded it.
        changed, unchanged = self.sae.decode(torch.stack([difference, torch.zeros_like(features)]))
        precise = torch.promote_types(activation.dtype, changed.dtype)
        added = (changed - unchanged).to(activation.device, precise)
        return (activation.to(precise) + added).to(activation.dtype)
