"""Rank by RelP: attribution patching with relevance coefficients in place of gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float64
from torch import Tensor

from cna_lens.discovery.rankings.attribution_patching import patched
from cna_lens.discovery.rankings.gradients import GradientBatch
from cna_lens.discovery.rankings.protocol import Collected, Needs, Ranking
from cna_lens.errors import ModelError
from cna_lens.metrics.first_token import FirstTokenMetric, LogOdds, Values, check_metric
from cna_lens.models.hooked_model import HookedModel, model_name
from cna_lens.models.inside.sites import mlp_hook_names
from cna_lens.results.scores import NeuronScores

Function = Callable[[Tensor], Tensor]

STABILIZER = 1e-6
"""A gate of exactly 0 takes the slope of this input instead of 0 / 0."""


@dataclass(frozen=True)
class RelP(Ranking):
    r"""Relevance patching: attribution patching through a model that is linear at each prompt.

    $$s_{l,j} = \frac{1}{|P|} \sum_{p \in P} \rho_{l,j}(p)
    \left(a_{l,j}(p) - \bar{a}_{l,j}\right)$$

    where $\rho$ is the gradient of the metric with these rules for the backward pass, which leave
    the forward pass unchanged:

    - normalisation $x / \sigma(x)$: the coefficient $1 / \sigma$ is a constant;
    - attention: the pattern is a constant, only values carry relevance;
    - nonlinearity f(g): the slope is $f(g) / g$, held constant (identity rule);
    - the gate's product $f(g) \, u$: each factor gets half of the gradient (half rule).

    Relevance is then conserved: without biases, and without a soft cap of the logits, inputs times
    their coefficients sum to the logit.

    >>> circuit = find_circuit(
    ...     tiny_model, [[5, 6], [8]], [[7]], rank="relp", k=2, universal=None, progress=False
    ... )
    >>> circuit.provenance.unit
    'nats'

    Source: Rezaei Jafari et al., arXiv 2508.21258, and for MLP neurons Arora et al., arXiv
    2601.22594. Cost: one forward pass for each prompt, and one forward and one backward pass for
    each positive prompt. Needs an architecture like Llama's, with gated MLPs.

    Attributes:
        metric: `LogOdds` of the behaviour's first tokens, refusal by default, or
            `LogitDifference`.
    """

    metric: FirstTokenMetric = field(default_factory=LogOdds)
    name: ClassVar[str] = "relp"
    needs: ClassVar[Needs] = "gradients"

    def __post_init__(self) -> None:
        """Reject invalid settings."""
        check_metric(self.metric)

    def check(self, model: HookedModel, n_positive: int, n_negative: int) -> None:  # noqa: ARG002
        """Raise ModelError if a part is missing, InputError if the metric does not fit."""
        relp_hooks(model)
        self.metric.of(model, n_positive)

    def score(self, collected: Collected) -> NeuronScores:
        """Score every neuron."""
        values = patched(collected, self.metric, _relevance, "propagating relevance")
        return collected.scored(self, values, self.metric.unit)


def _relevance(
    batch: GradientBatch, metric: Values, baseline: Float64[Tensor, " neuron"]
) -> Float64[Tensor, " neuron"]:
    hooks = relp_hooks(batch.model)
    found = batch.run(metric, hooks)
    if silent := [name for name, rule in hooks if not rule.fired]:
        raise ModelError(
            f"relp changes the gradient at {', '.join(silent)}, which {model_name(batch.model)} "
            "never computed; use attribution_patching"
        )
    return (found.gradients * (found.activations - baseline)).sum(0)


def relp_hooks(model: HookedModel) -> list[tuple[str, _Rule]]:
    """Return hooks that change the backward pass to RelP's, and no value of the forward pass.

    Raises:
        ModelError: the model lacks a part that a rule needs.
    """
    points = model.hook_dict
    hooks: dict[int, tuple[str, _Rule]] = {}
    for name, point in points.items():
        if name.endswith((".hook_scale", ".attn.hook_pattern")):
            hooks[id(point)] = (name, _Fixed())
    required = ["ln_final.hook_scale"]
    for layer in range(int(model.cfg.n_layers)):
        required += [f"blocks.{layer}.{part}.hook_scale" for part in ("ln1", "ln2")]
        required.append(f"blocks.{layer}.attn.hook_pattern")
    for layer, post in enumerate(mlp_hook_names(model)):
        if post is None:
            continue
        gate, up = (f"blocks.{layer}.mlp.{name}" for name in ("hook_pre", "hook_pre_linear"))
        required += [gate, up]
        if gate in points and up in points:
            product = _Product(post, *_activation_function(model, layer))
            for name, rule in ((gate, product.gate), (up, product.up), (post, product)):
                hooks[id(points[name])] = (name, rule)
    if missing := [name for name in required if name not in points]:
        raise ModelError(
            f"relp needs an architecture like Llama's, and {model_name(model)} has no "
            f"{', '.join(missing)}; use attribution_patching"
        )
    return list(hooks.values())


class _Rule:
    """A forward hook that remembers whether its part of the model ran."""

    def __init__(self, change: Callable[[Tensor], Tensor | None]) -> None:
        self.change = change
        self.fired = False

    def __call__(self, value: Tensor, hook: Any) -> Tensor | None:  # noqa: ARG002
        self.fired = True
        return self.change(value)


class _Fixed(_Rule):
    def __init__(self) -> None:
        super().__init__(lambda value: value.detach())


class _Product(_Rule):
    """The identity and half rules: make a gate's product linear in both of its factors."""

    def __init__(self, name: str, function: Function, bias: Tensor | None) -> None:
        super().__init__(self._linear)
        self.name = name
        self.function = function
        self.bias = bias
        self.factors: dict[str, Tensor] = {}
        self.gate = _Rule(lambda value: self.factors.update(gate=value))
        self.up = _Rule(lambda value: self.factors.update(up=value))

    def _linear(self, product: Tensor) -> Tensor:
        gate, up = self.factors.pop("gate"), self.factors.pop("up")
        with torch.no_grad():
            activated = self.function(gate)
            away_from_0 = torch.where(gate == 0, STABILIZER, gate)
            slope = self.function(away_from_0) / away_from_0
            self._check(product, activated * up)
        towards_gate = slope * up.detach() * (gate - gate.detach())
        towards_up = activated * (up - up.detach())
        return product.detach() + (towards_gate + towards_up) / 2

    def _check(self, product: Tensor, expected: Tensor) -> None:
        # The model computes the same product in the same precision, so that little is rounded.
        close = 4 * torch.finfo(product.dtype).eps * expected.abs()
        if self.bias is not None:
            close = close + 4 * torch.finfo(product.dtype).eps * self.bias.abs()
            expected = expected + self.bias
        if bool(((product - expected).abs() > close).any()):
            raise ModelError(
                f"{self.name} is not the product of its activated gate and its up projection, as "
                "relp needs; use attribution_patching"
            )


def _activation_function(model: HookedModel, layer: int) -> tuple[Function, Tensor | None]:
    """Find a gated MLP's activation function, and the bias that is added to the product."""
    mlp = cast("Any", model).blocks[layer].mlp
    inner = getattr(mlp, "original_component", mlp)
    for name in ("act_fn", "activation_fn", "act"):
        if callable(function := getattr(inner, name, None)):
            return cast("Function", function), getattr(mlp, "b_in", None) if inner is mlp else None
    raise ModelError(
        f"relp cannot find the activation function of layer {layer} of {model_name(model)}; use "
        "attribution_patching"
    )
