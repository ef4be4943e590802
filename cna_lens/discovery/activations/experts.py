"""Read experts' neurons, weighted as they reach the output, at one token of each prompt."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, cast

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from cna_lens.errors import ModelError
from cna_lens.models.inside.expert_hooks import NamedHook, behind_experts, through_point
from cna_lens.models.inside.experts import FusedExperts, HookedExperts
from cna_lens.models.inside.routing import Routed, Router, routed_to
from cna_lens.models.inside.sites import LayerSites, hook_name
from cna_lens.results.neurons import MLP, Experts

# Activations multiplied with their route weights, and the route weights of the layer's MLPs.
LayerRead = tuple[Float[Tensor, "prompt neuron"], Float[Tensor, "prompt mlp"]]


class ExpertReadout:
    r"""Reads the layers with experts in one forward pass, within `expert_hooks`.

    An activation counts as much as it adds to the output, $w_{t,e} \, a_{t,e}$ with the route
    weight w and the gated activation a, and as 0 where the token t is not routed to the expert e.

    A model's own implementation of its experts may not show their activations. Those of the tokens
    to read are therefore computed a second time, and their output is compared with the layer's.

    Args:
        sites: the layers with experts.
        tokens: the token to read of each prompt, batch and position on one axis.
    """

    def __init__(self, sites: Sequence[LayerSites], tokens: Int[Tensor, " prompt"]) -> None:
        """Begin with nothing read."""
        self.sites = sites
        self.tokens = tokens
        self._activations: dict[MLP, Float[Tensor, "prompt d_mlp"]] = {}
        self._weights: dict[MLP, Float[Tensor, " prompt"]] = {}

    def reading(self) -> AbstractContextManager[None]:
        """Return the context in which fused experts are read."""
        return behind_experts(self.sites, self._read_fused)

    def fwd_hooks(self) -> list[NamedHook]:
        """Return the hooks for MLPs with a hook point: shared ones, HookedTransformer's experts."""
        return [
            (
                cast("str", site.dense) if mlp.expert is None else hook_name(mlp),
                partial(self._read_point, mlp=mlp),
            )
            for site in self.sites
            for mlp in site.mlps
            if mlp.expert is None or isinstance(site.experts, HookedExperts)
        ]

    def shapes(self, n_layers: int) -> tuple[Experts, ...]:
        """Return the number and the width of the experts in every layer of the model."""
        sparse = {site.layer: cast("Any", site.experts).shape for site in self.sites}
        return tuple(sparse.get(layer, Experts(0, 0)) for layer in range(n_layers))

    def layers(self) -> dict[int, LayerRead]:
        """Return each layer's activations and route weights, 0 for experts without a prompt.

        Raises:
            ModelError: a layer's experts did not run.
        """
        return {site.layer: self._layer(site) for site in self.sites}

    def _layer(self, site: LayerSites) -> LayerRead:
        read = [mlp for mlp in site.mlps if mlp in self._activations]
        if not read or read[-1].expert is None or (site.dense and read[0].expert is not None):
            raise ModelError(f"the experts of layer {site.layer} never ran")
        some = self._activations[read[-1]]
        # An expert may not run if no token is routed to it.
        nothing, no_weight = torch.zeros_like(some), some.new_zeros(len(some))
        activations = [self._activations.get(mlp, nothing) for mlp in site.mlps]
        weights = [self._weights.get(mlp, no_weight) for mlp in site.mlps]
        return torch.cat(activations, -1), torch.stack(weights, -1)

    def _store(
        self, mlp: MLP, prompts: Tensor, activations: Tensor, weights: Tensor
    ) -> Float[Tensor, "some_prompts d_mlp"]:
        if mlp in self._activations:
            raise ModelError(f"{mlp} ran twice in one forward pass")
        weights = weights.to(activations)
        weighted = activations * weights[:, None]
        shape = (len(self.tokens), activations.shape[-1])
        self._activations[mlp] = activations.new_zeros(shape).index_copy(0, prompts, weighted)
        self._weights[mlp] = activations.new_zeros(len(self.tokens)).index_copy(0, prompts, weights)
        return weighted

    def _read_point(self, activation: Tensor, hook: Any, *, mlp: MLP) -> None:
        routed = cast("Routed", routed_to(hook))
        held = rearrange(activation, "... d_mlp -> (...) d_mlp")
        tokens = self.tokens.to(held.device)
        prompts, places = torch.where(tokens[:, None] == routed.tokens.to(held.device))
        self._store(mlp, prompts, held[places], routed.weights[places])

    def _read_fused(self, site: LayerSites, hidden: Tensor, router: Router, output: Tensor) -> None:
        experts = cast("FusedExperts", site.experts)
        tokens = self.tokens.to(hidden.device)
        here = router.at(tokens)
        total = torch.zeros_like(output[tokens], dtype=torch.float32)
        for expert in here.chosen():
            prompts, weights = here.to(expert).tokens, here.to(expert).weights
            read = tokens[prompts]
            activations = experts.activations(hidden[read], expert)
            routed = Routed(read, weights, len(hidden))
            activations = through_point(experts.module, expert, activations, routed)
            weighted = self._store(MLP(site.layer, expert), prompts, activations, weights)
            written = experts.written(weighted, expert) + experts.bias(expert) * weights[:, None]
            total.index_add_(0, prompts, written.to(total.dtype))
        _check_same(total, output[tokens], site)


def _check_same(found: Tensor, expected: Tensor, site: LayerSites) -> None:
    tolerance = torch.finfo(expected.dtype).eps ** 0.5
    if not (found - expected).norm() <= tolerance * expected.norm():
        experts = type(cast("FusedExperts", site.experts).module).__name__
        raise ModelError(
            f"the neurons of layer {site.layer} do not add up to the output of its experts: "
            f"{experts} computes something else than its weights say, and cannot be read"
        )
