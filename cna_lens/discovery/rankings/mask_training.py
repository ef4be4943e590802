"""Scores that are trained through a mask, which ablates each neuron by a share."""

from __future__ import annotations

import hashlib
import io
import math
import pickle
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, cast, get_args

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from tqdm.auto import tqdm

from cna_lens.discovery.rankings.protocol import (
    NO_SETTING,
    Collected,
    Needs,
    Ranking,
    check_whole,
    described,
)
from cna_lens.discovery.rankings.squared_attribution import SquaredAttribution
from cna_lens.errors import ActivationError, InputError, ModelError
from cna_lens.metrics.certainty import WatchedMetric
from cna_lens.metrics.first_token import FirstTokenMetric, LogOdds, Values, check_metric
from cna_lens.metrics.likelihood import kl_divergence
from cna_lens.models.hooked_model import (
    HookedModel,
    carries_hooks,
    input_device,
    model_name,
)
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
class MaskRanking(Ranking):
    """A ranking by scores that are trained through a mask; subclasses give the mask.

    Attributes:
        metric: `LogOdds` of the behaviour's first tokens, refusal by default, or
            `LogitDifference`; what ablation lowers.
        steps: gradient steps.
        start: "squared_attribution", or "zero" to start from equal scores.
        batch_size: positive prompts in each step, and as many negative ones; all of a set that has
            fewer.
        learning_rate: of Adam.
        epsilon: of Adam; a small one would make every neuron's step equally large.
        kl_weight: the factor of the divergence.
        floor: a positive prompt's metric below this value is not lowered further.
        answer_tokens: tokens of each negative answer along which the divergence is taken, beside
            the one after the prompt; and of each positive answer for the start.
        replacement: what an ablated neuron has: "zero", or "mean" for its mean on negative prompts.
        seed: of all that is drawn.
        checkpoints: a folder from which an interrupted run goes on. It has a file for each model,
            prompts and settings. It is no setting, and circuits do not record it.
    """

    metric: FirstTokenMetric = field(default_factory=LogOdds)
    steps: int = 80
    start: Start = "squared_attribution"
    batch_size: int = 6
    learning_rate: float = 0.05
    epsilon: float = 1e-3
    kl_weight: float = 4.0
    floor: float = -4.0
    answer_tokens: int = 8
    replacement: Replacement = "zero"
    seed: int = 0
    checkpoints: Path | None = field(default=None, metadata=NO_SETTING)
    needs: ClassVar[Needs] = "gradients"

    def __post_init__(self) -> None:
        """Reject invalid settings."""
        check_metric(self.metric)
        for name, least in (("steps", 1), ("batch_size", 1), ("answer_tokens", 0), ("seed", 0)):
            check_whole(name, getattr(self, name), least)
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
        if self.checkpoints is not None:
            object.__setattr__(self, "checkpoints", Path(self.checkpoints))

    def check(self, model: HookedModel, n_positive: int, n_negative: int) -> None:  # noqa: ARG002
        """Raise an error for a model that the ranking cannot use.

        Raises:
            InputError: the metric does not fit, answers are needed and there is no tokenizer, or
                there are both checkpoints and hooks.
            ModelError: neurons are experts', or the model is not in float32 or float64.
        """
        mlp_hook_names(model)
        # A checkpoint's name has the weights' hash, which hooks do not change.
        if self.checkpoints is not None and carries_hooks(model):
            raise InputError(
                f"{model_name(model)} has hooks, and a checkpoint cannot tell with which of them "
                "it was trained; set checkpoints=None, or steer by the weights"
            )
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

    @abstractmethod
    def begun_at(self, order: Float64[Tensor, " neuron"]) -> Float64[Tensor, " neuron"]:
        """The scores at the start.

        Args:
            order: standardized logarithms of `SquaredAttribution`, or 0 for all neurons.
        """

    @abstractmethod
    def mask(
        self, scores: Float64[Tensor, " neuron"], step: int, drawn: float
    ) -> tuple[Float64[Tensor, " neuron"], Float64[Tensor, ""] | float]:
        """The share of each neuron that is ablated, and what is added to the loss for it.

        Args:
            scores: of the neurons.
            step: the number of the step, from 0 on.
            drawn: this step's number from 0 to 1, drawn evenly.
        """

    def score(self, collected: Collected) -> NeuronScores:
        """Learn a score for every neuron.

        Raises:
            InputError: the metric of every positive prompt is at most `floor`, a prompt and its
                answer exceed the context, or a checkpoint cannot be read.
            ActivationError: a gradient is infinite or not a number, or the metric is not a number.
        """
        with torch.inference_mode(False), torch.enable_grad():
            training = _Training.begun(self, collected)
            if not training.restored():
                order = torch.zeros(len(training.scores), dtype=torch.float64)
                if self.start == "squared_attribution":
                    ranking = SquaredAttribution(self.metric, self.answer_tokens, self.seed)
                    order = standardized_logarithms(ranking.score(collected).values)
                with torch.no_grad():
                    training.scores.copy_(self.begun_at(order))
            scores = training.learned()
        return collected.scored(self, scores - scores.min(), "learned score")


def standardized_logarithms(
    strengths: Float64[Tensor, " neuron"],
) -> Float64[Tensor, " neuron"]:
    """Logarithms with mean 0 and deviation 1; neurons of strength 0 share the lowest value.

    >>> standardized_logarithms(torch.tensor([1.0, 100.0, 0.0], dtype=torch.float64)).tolist()
    [-1.0, 1.0, -1.0]
    """
    known = strengths > 0
    found = torch.zeros_like(strengths)
    if not bool(known.any()):
        return found
    logarithms = strengths[known].log()
    deviation = logarithms.std(correction=0).clamp(min=torch.finfo(logarithms.dtype).tiny)
    begun = (logarithms - logarithms.mean()) / deviation
    found.fill_(begun.min())
    found[known] = begun
    return found


@dataclass
class _Training:
    """The state of one training of scores through a mask."""

    settings: MaskRanking
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
    def begun(cls, settings: MaskRanking, collected: Collected) -> _Training:
        reader, prompts = collected.model_and_prompts()
        others = collected.negative_prompts()
        model, layout = reader.model, collected.negative.layout
        names = [
            (name, slice(layout.starts[layer], layout.starts[layer] + layout.widths[layer]))
            for layer, name in enumerate(mlp_hook_names(model))
            if name is not None
        ]
        scores = torch.zeros(layout.n_neurons, dtype=torch.float64, requires_grad=True)
        # Copied, since statistics that are read in inference mode cannot be part of a graph.
        baseline = collected.negative.mean.cpu().double().clone()
        values = settings.metric.of(model, len(prompts.ids))
        watched = WatchedMetric(values)
        highest = _highest(model, watched, prompts.ids, settings)
        watched.warn(model, others.ids)
        _check_floor(highest, settings)
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

    def learned(self) -> Float64[Tensor, " neuron"]:
        """Take all steps, and return the scores."""
        settings = self.settings
        batches = _batches(len(self.positive), len(self.negative), settings)
        with tqdm(
            total=settings.steps,
            initial=self.step,
            desc="learning a mask",
            unit="step",
            disable=not self.progress,
        ) as bar:
            for step, (positive, negative, drawn) in enumerate(batches):
                if step < self.step:
                    continue
                mask, penalty = settings.mask(self.scores, step, drawn)
                loss = self._loss(positive, negative, mask).cpu() + penalty
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
            kl_divergence(
                each.log_probs.to(logits.device),
                logits[row, each.n_prompt - 1 - first : len(each.ids) - first]
                .float()
                .log_softmax(-1),
            ).mean()
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


def _highest(
    model: HookedModel, metric: Values, prompts: Sequence[TokenIds], settings: MaskRanking
) -> float:
    """The highest value of the metric on the positive prompts."""
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
        if bool(values.isnan().any()):
            raise ActivationError(
                f"{model_name(model)} gives a metric that is not a number on positive prompts "
                f"{places[0]} to {places[-1]}; check its weights"
            )
        highest = max(highest, float(values.max()))
    return highest


def _check_floor(highest: float, settings: MaskRanking) -> None:
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
    n_positive: int, n_negative: int, settings: MaskRanking
) -> Iterator[tuple[list[int], list[int], float]]:
    """Each step's prompts, positive and negative, and its number; all follow from the seed."""
    generator = torch.Generator().manual_seed(settings.seed)
    positive, negative = (
        _in_turn(n, settings.batch_size, generator) for n in (n_positive, n_negative)
    )
    for _ in range(settings.steps):
        drawn = float(torch.rand((), generator=generator))
        yield next(positive), next(negative), drawn


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
