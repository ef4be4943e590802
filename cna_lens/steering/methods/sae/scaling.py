"""The features of a sparse autoencoder as a steering method: ablated or amplified."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cna_lens.errors import VectorMismatchError
from cna_lens.models.hooked_model import HookedModel, model_name
from cna_lens.models.running.positions import Positions, check_positions
from cna_lens.steering.method import Applied, check_strength
from cna_lens.steering.methods.sae.autoencoder import SparseAutoencoder, check_fits, features_of
from cna_lens.steering.methods.sae.features import SaeFeatures
from cna_lens.steering.scaling import check_multiplier, hooked


@dataclass(frozen=True, eq=False)
class FeatureScaling:
    r"""Multiplies features' activations and keeps all else; a steering method.

    $$x \leftarrow x + \sum_i (m_\alpha - 1) \, f_i(x) \, d_i, \qquad
    m_\alpha = 1 - \alpha (1 - m)$$

    with the strength $\alpha$, the multiplier m that holds at strength 1 (0 ablates), and the
    feature's activation $f_i$ and decoder direction $d_i$. Only the difference in what the
    features stand for is added, so that what the autoencoder fails to reconstruct stays in: the
    error term of Marks et al. 2024 (arXiv 2403.19647) and of Templeton et al. 2024 (Scaling
    Monosemanticity); autoencoders are those of SAELens (Bloom et al. 2024). A token at which none
    of the features is active keeps its activation.

    >>> features = sae_features(tiny_model, tiny_sae, ["w5 w6"], ["w7"], k=3, chat=False)
    >>> for method in (FeatureScaling(features), FeatureScaling(features.random(), name="random")):
    ...     with method.at(tiny_model) as applied:
    ...         logits = tiny_model(torch.tensor([[1, 2, 3]]))
    >>> applied.hook_points
    ('blocks.1.hook_resid_post',)

    Attributes:
        features: what is scaled, with its autoencoder.
        multiplier: at strength 1; 0 ablates, above 1 amplifies.
        positions: at which tokens.
        name: what tables call it.
        allow_other_model: accept features that were found on a model of another name.
    """

    features: SaeFeatures
    multiplier: float = 0.0
    positions: Positions = "all"
    name: str = "sae"
    allow_other_model: bool = False

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        check_multiplier(self.multiplier)
        check_positions(self.positions)

    @contextmanager
    def at(self, model: HookedModel, strength: float = 1.0) -> Generator[Applied]:
        """Steer the model within the context; one pass of the autoencoder for each forward pass.

        Raises:
            InputError: the strength is outside 0 to 1.
            VectorMismatchError: the features were found on another model, or the autoencoder is
                of one of another width.
            ModelError: the model has no such hook point.
        """
        check_strength(strength)
        check_fits(model, self.features.sae)
        found_on, name = self.features.model, model_name(model)
        if found_on is not None and found_on != name and not self.allow_other_model:
            raise VectorMismatchError(
                f"the features were found on {found_on}, this model is {name}; find them on this "
                "model, or set allow_other_model=True if that is what you mean"
            )
        change = -strength * (1 - self.multiplier)
        places = (self.features.hook_point,) if change and self.features.indices else ()
        scaling = _ScaleFeatures(self.features.sae, self.features.indices, change)
        with hooked(model, [(place, scaling) for place in places], self.positions):
            via = "hooks" if places else "nothing"
            yield Applied(self.name, strength, self.positions, via, places)


class _ScaleFeatures:
    """Adds the difference that scaled features make to what they stand for."""

    def __init__(self, sae: SparseAutoencoder, indices: Sequence[int], change: float) -> None:
        self.sae = sae
        self.indices = torch.tensor(indices, dtype=torch.long)
        self.change = change

    def __call__(self, activation: Tensor, hook: Any) -> Tensor:  # noqa: ARG002
        features = features_of(self.sae, activation)
        indices = self.indices.to(features.device)
        difference = torch.zeros_like(features)
        difference[..., indices] = self.change * features[..., indices]
        # Against features that are all zero, so that the decoder's bias cancels. In one call, since
        # SAELens forgets how it normalised an activation as soon as that is decoded.
        changed, unchanged = self.sae.decode(torch.stack([difference, torch.zeros_like(features)]))
        precise = torch.promote_types(activation.dtype, changed.dtype)
        added = (changed - unchanged).to(activation.device, precise)
        return (activation.to(precise) + added).to(activation.dtype)
