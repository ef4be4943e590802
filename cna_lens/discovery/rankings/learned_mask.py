"""Rank by a learned mask: which neurons end the behaviour together, and change little else."""

from __future__ import annotations

import hashlib
import io
import math
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, cast, get_args

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn import functional
from tqdm.auto import tqdm

from cna_lens.discovery.rankings.protocol import NO_SETTING, Collected, Needs, Ranking, described
from cna_lens.discovery.rankings.soft_top_k import soft_top_k
from cna_lens.discovery.rankings.squared_attribution import SquaredAttribution
from cna_lens.errors import ActivationError, InputError, ModelError
from cna_lens.metrics.first_token import FirstTokenMetric, LogOdds, Values, check_metric
from cna_lens.models.hooked_model import HookedModel, input_device, model_name
from cna_lens.models.inside.sites import mlp_hook_names
from cna_lens.models.inside.weights import weights_hash
from cna_lens.models.prompts.encoding import TokenIds, pad_token_id
from cna_lens.models.running.batching import pad
from cna_lens.models.running.forward import SharedPrefix, forward_logits
from cna_lens.models.running.positions import prompt_lengths
from cna_lens.models.running.predictions import check_answer_tokens, own_answers
from cna_lens.results.files import write_atomically
from cna_lens.results.provenance import library_versions
from cna_lens.results.scores import NeuronScores

Replacement = Literal["zero", "mean"]
Start = Literal["zero", "squared_attribution"]

STEPS_BETWEEN_CHECKPOINTS = 20


@dataclass(frozen=True)
class LearnedMask(Ranking):
    r"""Scores learned by gradient descent through a mask that ablates about k neurons at once.

    Each neuron has a score s. A step draws k and ablates every neuron by a share,

    $$b_i = \sigma\left(\frac{s_i - \tau}{T}\right), \qquad \sum_i b_i = k, \qquad
    a_i \leftarrow (1 - b_i) \, a_i + b_i \, r_i,$$

    at all positions. Here r is 0, or the neuron's mean on negative prompts at the token that is
    read. The threshold τ is found by bisection. The loss is

    $$\frac{1}{n} \sum_p \max(\text{floor}, m(p)) +
    \lambda \, \mathrm{KL}(p_\text{unchanged} \,\|\, p_\text{masked})$$

    with the metric m of positive prompts p. The divergence is taken along the unchanged model's
    answers to negative prompts. It separates the cause of a behaviour from what merely breaks the
    model. k is drawn anew each step, so that one run orders the neurons for many sizes. T falls
    geometrically, so that the mask comes near the hard set that a circuit is.

    The scores start as logarithms of `SquaredAttribution`, standardized to a deviation of the
    first T. Most neurons are hardly moved by the steps, so that they stay in this order. If all
    started at 0, they would stay in none.

    A score is larger the earlier a neuron enters the set; the lowest is 0.

    >>> mask = LearnedMask(
    ...     LogitDifference(target=5, foil=6), steps=5, fractions=(0.02, 0.1), answer_tokens=0
    ... )
    >>> scores = score_neurons(tiny_model, [[5, 6], [8]], [[7], [9]], mask)
    >>> float(scores.values.min())
    0.0

    Source: Matryoshka Attribution, arXiv 2609.25518, for MLP neurons; the start, the divergence on
    negative prompts, the clamp and the falling temperature are ours. Cost: that of
    `SquaredAttribution`; answers to the negative prompts; two forward passes over all prompts; then
    each step takes one forward and one backward pass over
    `batch_size` positive and as many negative prompts, all in memory at once. The unchanged model's
    predictions on the negative prompts are kept: n prompts, `answer_tokens` + 1 tokens and the
    vocabulary, in float32.

    Attributes:
        metric: `LogOdds` of the behaviour's first tokens, refusal by default, or
            `LogitDifference`; what ablation lowers.
        steps: gradient steps.
        fractions: the smallest and largest k, as shares of all neurons. The logarithm of k is drawn
            evenly between the two.
        start: "squared_attribution", or "zero" to start from equal scores.
        batch_size: positive prompts in each step, and as many negative ones; all of a set that has
            fewer.
        learning_rate: of Adam.
        epsilon: of Adam; a small one would make every neuron's step equally large.
        kl_weight: the factor λ.
        floor: a positive prompt's metric below this value is not lowered further.
        temperatures: T at the first and at the last step.
        answer_tokens: tokens of each negative answer along which the divergence is taken, beside
            the one after the prompt; and of each positive answer for the start.
        replacement: "zero", or "mean" for the mean on negative prompts.
        seed: of the prompts' order, of k, and of the tokens drawn for the start.
        checkpoints: a folder from which an interrupted run goes on. It has a file for each model,
            prompts and settings. It is no setting, and circuits do not record it.
    """

    metric: FirstTokenMetric = field(default_factory=LogOdds)
    steps: int = 80
    fractions: tuple[float, float] = (0.001, 0.02)
    start: Start = "squared_attribution"
    batch_size: int = 6
    learning_rate: float = 0.05
    epsilon: float = 1e-3
    kl_weight: float = 4.0
    floor: float = -4.0
    temperatures: tuple[float, float] = (0.25, 0.05)
    answer_tokens: int = 8
    replacement: Replacement = "zero"
    seed: int = 0
    checkpoints: Path | None = field(default=None, metadata=NO_SETTING)
    name: ClassVar[str] = "learned_mask"
    needs: ClassVar[Needs] = "gradients"

    def __post_init__(self) -> None:
        """Reject invalid settings."""
        check_metric(self.metric)
        for name, least in (("steps", 1), ("batch_size", 1), ("answer_tokens", 0)):
            value = getattr(self, name)
            if value < least or value % 1:
                raise InputError(f"{name} is {value}, expected a whole number from {least} on")
        for name, most, range_ in (
            ("fractions", 1, "between 0 and 1"),
            ("temperatures", math.inf, "above 0"),
        ):
            given = getattr(self, name)
            if len(given) != 2 or not all(0 < value < most for value in given):
                raise InputError(f"{name} is {given}, expected two numbers {range_}")
        if self.fractions[0] > self.fractions[1]:
            raise InputError(f"fractions is {self.fractions}, expected the smaller number first")
        for name in ("learning_rate", "epsilon"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} is {getattr(self, name)}, expected a number above 0")
        if not 0 <= self.kl_weight < math.inf:
            raise InputError(f"kl_weight is {self.kl_weight}, expected a number from 0 on")
        if not math.isfinite(self.floor):
            raise InputError(f"floor is {self.floor}, expected a finite number")
        for name, known in (("replacement", Replacement), ("start", Start)):
            if (given := getattr(self, name)) not in get_args(known):
                raise InputError(
                    f"{name} is {given!r}, expected one of {', '.join(get_args(known))}"
                )

    def check(self, model: HookedModel, n_positive: int, n_negative: int) -> None:  # noqa: ARG002
        """Raise an error for a model that the ranking cannot use.

        Raises:
            InputError: the metric does not fit, or answers are needed and there is no tokenizer.
            ModelError: neurons are experts', or the model is not in float32 or float64.
        """
        mlp_hook_names(model)
        self.metric.of(model, n_positive)
        coarse = {
            each.dtype
            for each in cast("Any", model).parameters()
            if each.is_floating_point() and torch.finfo(each.dtype).eps > 1e-6
        }
        if coarse:
            raise ModelError(
                f"{model_name(model)} has weights in {coarse.pop()}, in which ablation by a small "
                "share is rounded away; load it in float32"
            )
        check_answer_tokens(model, self.answer_tokens)

    def score(self, collected: Collected) -> NeuronScores:
        """Learn a score for every neuron.

        Raises:
            InputError: the metric of every positive prompt is below `floor`, a prompt and its
                answer exceed the context, or a checkpoint cannot be read.
            ActivationError: a gradient is infinite or not a number.
        """
        with torch.inference_mode(False), torch.enable_grad():
            run = _Run.begun(self, collected)
            if not run.restored() and self.start == "squared_attribution":
                run.begin_at(self._squared(collected))
            scores = run.learned()
        return collected.scored(self, scores - scores.min(), "learned score")

    def _squared(self, collected: Collected) -> Float64[Tensor, " neuron"]:
        ranking = SquaredAttribution(self.metric, self.answer_tokens, self.seed)
        return ranking.score(collected).values


@dataclass
class _Run:
    """The state of one run."""

    settings: LearnedMask
    model: HookedModel
    metric: Values
    positive: Sequence[TokenIds]
    negative: Sequence[_Answered]
    baseline: Float64[Tensor, " neuron"]
    names: Sequence[tuple[str, slice]]
    scores: Float64[Tensor, " neuron"]
    optimiser: torch.optim.Adam
    progress: bool
    step: int = 0

    @classmethod
    def begun(cls, settings: LearnedMask, collected: Collected) -> _Run:
        reader, prompts = collected.model_and_prompts()
        others = collected.negative_prompts()
        model, layout = reader.model, collected.negative.layout
        names = [
            (name, slice(layout.starts[layer], layout.starts[layer] + layout.widths[layer]))
            for layer, name in enumerate(mlp_hook_names(model))
            if name is not None
        ]
        scores = torch.zeros(layout.n_neurons, dtype=torch.float64, requires_grad=True)
        baseline = collected.negative.mean.cpu().double()
        values = settings.metric.of(model, len(prompts.ids))
        _check_floor(model, values, prompts.ids, settings)
        return cls(
            settings=settings,
            model=model,
            metric=values,
            positive=prompts.ids,
            negative=_answered(model, others.ids, settings.answer_tokens),
            baseline=torch.zeros_like(baseline) if settings.replacement == "zero" else baseline,
            names=names,
            scores=scores,
            optimiser=torch.optim.Adam([scores], lr=settings.learning_rate, eps=settings.epsilon),
            progress=reader.progress,
        )

    def begin_at(self, strengths: Float64[Tensor, " neuron"]) -> None:
        """Set the scores to standardized logarithms, whose deviation is the first temperature."""
        known = strengths > 0
        if not bool(known.any()):
            return
        logarithms = strengths[known].log()
        deviation = logarithms.std(correction=0).clamp(min=torch.finfo(logarithms.dtype).tiny)
        begun = self.settings.temperatures[0] * (logarithms - logarithms.mean()) / deviation
        with torch.no_grad():
            # Neurons that nothing depends on share the last place.
            self.scores.fill_(begun.min())
            self.scores[known] = begun

    def learned(self) -> Float64[Tensor, " neuron"]:
        """Take all steps, and return the scores."""
        settings = self.settings
        n_neurons = len(self.scores)
        batches = _batches(len(self.positive), len(self.negative), n_neurons, settings)
        with tqdm(
            total=settings.steps,
            initial=self.step,
            desc="learning a mask",
            unit="step",
            disable=not self.progress,
        ) as bar:
            for step, (positive, negative, k) in enumerate(batches):
                if step < self.step:
                    continue
                loss = self._loss(positive, negative, soft_top_k(self.scores, k, self._heat(step)))
                (self.scores.grad,) = torch.autograd.grad(loss, [self.scores])
                if not bool(torch.isfinite(self.scores.grad).all()):
                    raise ActivationError(
                        f"{model_name(self.model)} gives infinite or not-a-number gradients at "
                        f"step {step}; check its weights"
                    )
                self.optimiser.step()
                self.step = step + 1
                bar.update()
                if self.step % STEPS_BETWEEN_CHECKPOINTS == 0:
                    self._keep()
        return self.scores.detach().clone()

    def _heat(self, step: int) -> float:
        first, last = self.settings.temperatures
        return first * (last / first) ** (step / max(1, self.settings.steps - 1))

    def _loss(
        self, positive: Sequence[int], negative: Sequence[int], mask: Float64[Tensor, " neuron"]
    ) -> Float[Tensor, ""]:
        asked = [self.positive[place] for place in positive]
        answered = [self.negative[place] for place in negative]
        texts = [*asked, *(each.ids for each in answered)]
        reads = [len(ids) - 1 for ids in asked] + [each.n_prompt - 1 for each in answered]
        first = min(reads)
        with self.model.hooks(fwd_hooks=list(self._hooks(mask))):
            prefix = SharedPrefix.of(self.model, texts, first, gradients=True)
            ids, padding = prefix.pad(self.model, texts)
            with prompt_lengths([read + 1 for read in reads]):
                logits = forward_logits(
                    self.model, ids, padding, prefix.read_only(), first - prefix.length
                )
        places = torch.tensor(reads[: len(asked)], device=logits.device) - first
        at_last = logits[torch.arange(len(asked), device=logits.device), places]
        shown = self.metric(at_last, positive).clamp(min=self.settings.floor).mean()
        divergences = [
            functional.kl_div(
                logits[row, each.n_prompt - 1 - first : len(each.ids) - first]
                .float()
                .log_softmax(-1),
                each.log_probs.to(logits.device),
                log_target=True,
                reduction="none",
            )
            .sum(-1)
            .mean()
            for row, each in enumerate(answered, len(asked))
        ]
        return shown + self.settings.kl_weight * torch.stack(divergences).mean()

    def _hooks(
        self, mask: Float64[Tensor, " neuron"]
    ) -> Iterator[tuple[str, Callable[..., Tensor]]]:
        for name, neurons in self.names:
            yield name, partial(_ablate, mask[neurons], self.baseline[neurons])

    def _keep(self) -> None:
        if self.settings.checkpoints is None:
            return
        content = io.BytesIO()
        torch.save(
            {
                "step": self.step,
                "scores": self.scores.detach(),
                "optimiser": self.optimiser.state_dict(),
            },
            content,
        )
        self.settings.checkpoints.mkdir(parents=True, exist_ok=True)
        write_atomically(self._file(self.settings.checkpoints), content.getvalue())

    def restored(self) -> bool:
        """Take over a checkpoint, if there is one."""
        if self.settings.checkpoints is None:
            return False
        path = self._file(self.settings.checkpoints)
        if not path.is_file():
            return False
        try:
            kept = torch.load(path, weights_only=True)
            with torch.no_grad():
                self.scores.copy_(kept["scores"])
            self.optimiser.load_state_dict(kept["optimiser"])
            self.step = kept["step"]
        except (EOFError, KeyError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
            raise InputError(
                f"{path} cannot be read as a checkpoint: {error}; delete it to begin anew"
            ) from error
        return True

    def _file(self, folder: Path) -> Path:
        """The file of this run: of its settings, model, prompts and means."""
        said = (
            described(self.settings),
            model_name(self.model),
            weights_hash(self.model),
            tuple(self.positive),
            tuple((each.ids, each.n_prompt) for each in self.negative),
            self.baseline.tolist(),
            library_versions(),
        )
        return folder / f"{hashlib.sha256(repr(said).encode()).hexdigest()[:16]}.pt"


def _check_floor(
    model: HookedModel, metric: Values, prompts: Sequence[TokenIds], settings: LearnedMask
) -> None:
    highest = -math.inf
    for start in range(0, len(prompts), settings.batch_size):
        places = list(range(start, min(start + settings.batch_size, len(prompts))))
        ids, mask = pad([prompts[place] for place in places], pad_token_id(model))
        ends = mask.sum(1) - 1
        first = int(ends.min())
        device = input_device(model)
        with torch.no_grad(), prompt_lengths(ends + 1):
            logits = forward_logits(model, ids.to(device), mask.to(device), None, first)
        rows = torch.arange(len(places), device=logits.device)
        values = metric(logits[rows, (ends - first).to(logits.device)], places)
        highest = max(highest, float(values.max()))
    if highest <= settings.floor:
        raise InputError(
            f"the metric is at most {highest:.3g} on all positive prompts, and floor is "
            f"{settings.floor}: there is nothing to lower; lower the floor, or check the metric's "
            "tokens"
        )


def _ablate(
    mask: Float64[Tensor, " d_mlp"],
    replacement: Float64[Tensor, " d_mlp"],
    activation: Float[Tensor, "batch pos d_mlp"],
    hook: Any,  # noqa: ARG001
) -> Float[Tensor, "batch pos d_mlp"]:
    share = mask.to(activation)
    return (1 - share) * activation + share * replacement.to(activation)


@dataclass(frozen=True)
class _Answered:
    """A negative prompt with the unchanged model's answer, and its predictions along the answer."""

    ids: TokenIds
    n_prompt: int
    log_probs: Float[Tensor, "kept_pos d_vocab"]


def _answered(
    model: HookedModel, prompts: Sequence[TokenIds], n_tokens: int
) -> Sequence[_Answered]:
    found: list[_Answered] = []
    for text in own_answers(model, prompts, n_tokens):
        ids = torch.tensor([text.ids], device=input_device(model))
        with torch.no_grad(), prompt_lengths([text.prompt_length]):
            logits = forward_logits(model, ids, torch.ones_like(ids), None, text.prompt_length - 1)
        log_probs = logits[0].float().log_softmax(-1).cpu()
        found.append(_Answered(text.ids, text.prompt_length, log_probs))
    return found


def _batches(
    n_positive: int, n_negative: int, n_neurons: int, settings: LearnedMask
) -> Iterator[tuple[list[int], list[int], float]]:
    """Each step's prompts, positive and negative, and its k; all of them follow from the seed."""
    generator = torch.Generator().manual_seed(settings.seed)
    positive, negative = (
        _in_turn(n, settings.batch_size, generator) for n in (n_positive, n_negative)
    )
    low, high = (math.log(fraction * n_neurons) for fraction in settings.fractions)
    for _ in range(settings.steps):
        k = math.exp(low + (high - low) * float(torch.rand((), generator=generator)))
        yield next(positive), next(negative), k


def _in_turn(n: int, batch_size: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Batches of places: each place stands in one before any stands in a second, and once in it."""
    left: list[int] = []
    size = min(batch_size, n)
    while True:
        if len(left) < size:
            order = torch.randperm(n, generator=generator).tolist()
            # Those that are still to come go into this batch, and not into it again.
            left += [p for p in order if p not in left] + [p for p in order if p in left]
        taken, left = left[:size], left[size:]
        yield taken
