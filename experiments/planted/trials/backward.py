"""Other rules for the backward pass: forward hooks that change gradients and no value."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import torch
from torch import Tensor
from torch.nn.functional import silu

from cna_lens import InputError, ModelError
from cna_lens.discovery import Collected, Needs, Ranking
from cna_lens.models import HookedModel
from cna_lens.results import NeuronScores

Hook = tuple[str, Callable[..., Any]]
Rules = Callable[[HookedModel], Sequence[Hook]]


def norms(model: HookedModel) -> list[Hook]:
    r"""Hold the scale of each normalisation fixed: $x / \sigma(x)$ with $\sigma$ a constant."""
    names = [f"blocks.{layer}.{norm}" for layer in _layers(model) for norm in ("ln1", "ln2")]
    return [(f"{name}.hook_scale", _fixed) for name in (*names, "ln_final")]


def patterns(model: HookedModel) -> list[Hook]:
    """Hold each attention pattern fixed, so that only values carry a gradient."""
    return [(f"blocks.{layer}.attn.hook_pattern", _fixed) for layer in _layers(model)]


def gates(
    model: HookedModel, to_gate: float = 0.5, to_up: float = 0.5, *, identity: bool = True
) -> list[Hook]:
    r"""Give each factor of a gate's product a share of its gradient.

    $$\frac{\partial}{\partial g} \to c_g\, u\, \text{slope}(g), \qquad
    \frac{\partial}{\partial u} \to c_u\, f(g), \qquad f = \text{SiLU}$$

    Args:
        model: a model with gated MLPs and SiLU.
        to_gate: $c_g$.
        to_up: $c_u$.
        identity: the slope is $f(g) / g$ instead of $f'(g)$.
    """
    hooks: list[Hook] = []
    for layer in _layers(model):
        gate = _Gate(to_gate, to_up, identity)
        prefix = f"blocks.{layer}.mlp"
        hooks += [
            (f"{prefix}.hook_pre", gate.read_gate),
            (f"{prefix}.hook_pre_linear", gate.read_up),
            (f"{prefix}.hook_post", gate.product),
        ]
    return hooks


def tempered(model: HookedModel, temperature: float = 2.0) -> list[Hook]:
    r"""Take the softmax's gradient at a higher temperature.

    $$\frac{\partial m}{\partial x_i} \to p_i \left(\frac{\partial m}{\partial p_i} -
    \sum_j p_j \frac{\partial m}{\partial p_j}\right), \qquad p = \text{softmax}(x / T)$$

    The pattern itself keeps its temperature of 1.
    """
    hooks: list[Hook] = []
    for layer in _layers(model):
        softmax = _Softmax(temperature)
        prefix = f"blocks.{layer}.attn"
        hooks += [
            (f"{prefix}.hook_attn_scores", softmax.read_scores),
            (f"{prefix}.hook_pattern", softmax.pattern),
        ]
    return hooks


def queries_keys_values(
    model: HookedModel, queries: float = 0.25, keys: float = 0.25, values: float = 0.5
) -> list[Hook]:
    """Scale the gradients of queries, keys and values, whose products attention computes."""
    shares = {"hook_q": queries, "hook_k": keys, "hook_v": values}
    return [
        (f"blocks.{layer}.attn.{name}", _Scaled(share))
        for layer in _layers(model)
        for name, share in shares.items()
    ]


def dropped(layer: int) -> list[Hook]:
    """Give what one layer writes into the residual stream a gradient of 0."""
    return [(f"blocks.{layer}.{name}", _Scaled(0.0)) for name in ("hook_attn_out", "hook_mlp_out")]


def _gim_attention(model: HookedModel) -> list[Hook]:
    return [*norms(model), *tempered(model), *queries_keys_values(model)]


RULES: Final[Mapping[str, Rules]] = {
    "relp": lambda model: [*norms(model), *patterns(model), *gates(model)],
    "norms": norms,
    "patterns": patterns,
    "norms and patterns": lambda model: [*norms(model), *patterns(model)],
    "relp, whole gates": lambda model: [*norms(model), *patterns(model), *gates(model, 1.0, 1.0)],
    "relp, to up alone": lambda model: [*norms(model), *patterns(model), *gates(model, 0.0, 1.0)],
    "relp, to gate alone": lambda model: [*norms(model), *patterns(model), *gates(model, 1.0, 0.0)],
    "relp, attention's gradient": lambda model: [*norms(model), *gates(model)],
    "gim": lambda model: [*_gim_attention(model), *gates(model, identity=False)],
    "gim, whole gates": _gim_attention,
}
"""Sets of rules by name. The names that begin with "relp" change one rule of RelP at a time."""


@dataclass(frozen=True)
class Through(Ranking):
    r"""Another ranking, whose gradients follow other rules of the backward pass.

    $$s = s_{\text{inner}}\left[\frac{\partial m}{\partial a} \to \rho\right]$$

    where $\rho$ is the gradient with the rules of that name in `RULES`; no value of the forward
    pass changes.

    - "relp" are RelP's rules (Rezaei Jafari et al., arXiv 2508.21258): fixed scales of
      norms, fixed attention patterns, the identity rule for SiLU and the half rule for gates.
    - "gim" are those of gradient interaction modifications (Edin et al., arXiv 2505.17630) with the
      settings of the authors' code: fixed scales of norms, the softmax's gradient at temperature 2,
      gradients of queries, keys and values times .25, .25 and .5, and half of a gate's gradient to
      each factor. "gim, whole gates" leaves the last out, as the first versions of that code did.

    Cost: that of the inner ranking.

    Attributes:
        inner: a ranking that takes gradients.
        rules: a name in `RULES`.
    """

    inner: Ranking
    rules: str
    name: ClassVar[str] = "through"
    needs: ClassVar[Needs] = "gradients"

    def __post_init__(self) -> None:
        """Reject unknown rules."""
        if self.rules not in RULES:
            raise InputError(f"rules is {self.rules!r}, expected one of {', '.join(RULES)}")

    def check(self, model: HookedModel, n_positive: int, n_negative: int) -> None:
        """Raise what the inner ranking raises."""
        self.inner.check(model, n_positive, n_negative)

    def score(self, collected: Collected) -> NeuronScores:
        """Score every neuron.

        Raises:
            ModelError: a part of the model is not as a rule needs it.
        """
        model = collected.model
        hooks = list(RULES[self.rules](model))
        if missing := [name for name, _ in hooks if name not in model.hook_dict]:
            raise ModelError(f"the rules {self.rules!r} need {missing[0]}, which is not there")
        with warnings.catch_warnings(), model.hooks(fwd_hooks=hooks):
            # Norms are computed by the bridge itself where a hook holds their scale fixed.
            warnings.filterwarnings("ignore", message="A forward hook edited hook_scale")
            found = self.inner.score(collected)
        return collected.scored(self, found.values, found.unit)


def _layers(model: HookedModel) -> Iterable[int]:
    return range(int(model.cfg.n_layers))


def _fixed(value: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
    return value.detach()


@dataclass(frozen=True)
class _Scaled:
    """The same value, with a share of its gradient."""

    share: float

    def __call__(self, value: Tensor, hook: Any) -> Tensor:  # noqa: ARG002
        return value.detach() + self.share * (value - value.detach())


class _Gate:
    """A gate's product, each factor with a share of its gradient."""

    def __init__(self, to_gate: float, to_up: float, identity: bool) -> None:
        self.to_gate, self.to_up, self.identity = to_gate, to_up, identity

    def read_gate(self, value: Tensor, hook: Any) -> None:  # noqa: ARG002
        self.gate = value

    def read_up(self, value: Tensor, hook: Any) -> None:  # noqa: ARG002
        self.up = value

    def product(self, value: Tensor, hook: Any) -> Tensor:
        gate, up = self.gate, self.up
        activated = silu(gate.detach())
        _check_close(value, activated * up, hook.name, "the product of SiLU and up projection")
        # SiLU(g) = g sigmoid(g), so that its identity rule has the slope sigmoid(g).
        to_gate = torch.sigmoid(gate.detach()) * gate if self.identity else silu(gate)
        from_gate = self.to_gate * up.detach() * (to_gate - to_gate.detach())
        from_up = self.to_up * activated * (up - up.detach())
        return value.detach() + from_gate + from_up


class _Softmax:
    """An attention pattern whose gradient is that at another temperature."""

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def read_scores(self, value: Tensor, hook: Any) -> None:  # noqa: ARG002
        self.scores = value

    def pattern(self, value: Tensor, hook: Any) -> Tensor:
        softmax = self.scores.softmax(-1).to(value)
        _check_close(value, softmax, hook.name, "the softmax of hook_attn_scores")
        # The factor cancels the 1 / T that the softmax's derivative brings.
        soft = self.temperature * (self.scores / self.temperature).softmax(-1).to(value)
        return value.detach() + (soft - soft.detach())


def _check_close(value: Tensor, expected: Tensor, name: str, what: str) -> None:
    close = 100 * torch.finfo(value.dtype).eps * max(1.0, float(expected.detach().abs().max()))
    if float((value - expected).detach().abs().max()) > close:
        raise ModelError(f"{name} is not {what}, as these rules need")
