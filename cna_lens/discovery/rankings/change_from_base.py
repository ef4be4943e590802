"""Rank by how much a neuron's activation changed from a base model to the model tuned from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Float64
from torch import Tensor
from tqdm.auto import tqdm

from cna_lens.discovery.rankings.protocol import NO_SETTING, Collected, Needs, Ranking, check_whole
from cna_lens.errors import InputError
from cna_lens.models.hooked_model import HookedModel, check_model, input_device, model_name
from cna_lens.models.inside.sites import mlp_hook_names
from cna_lens.models.inside.weights import weights_hash
from cna_lens.models.running.forward import forward_logits
from cna_lens.models.running.positions import prompt_lengths
from cna_lens.models.running.predictions import Text, check_answer_tokens, own_answers
from cna_lens.results.scores import NeuronScores


@dataclass(frozen=True)
class ChangeFromBase(Ranking):
    r"""Root mean square change of a neuron's activation from the base model, on the same tokens.

    $$s_i = \sqrt{\frac{1}{n} \sum_{p \in P} \sum_{t} \left(a_{i,t} -
    a^{\text{base}}_{i,t}\right)^2}$$

    over the n tokens from each positive prompt's last one to the end of the model's own greedy
    answer, which the base reads too. It needs both models, which is more than any other ranking
    has: compare it with none of them. It says where tuning shows, and not what the change does; a
    neuron also changes because earlier ones did.

    >>> import copy
    >>> base = copy.deepcopy(tiny_model)
    >>> with torch.no_grad():
    ...     _ = base.original_model.model.layers[1].mlp.gate_proj.weight[3].neg_()
    >>> scores = score_neurons(
    ...     tiny_model, [[5, 6], [8]], [[7]], ChangeFromBase(base, answer_tokens=0)
    ... )
    >>> scores.top(k=1).neurons
    (Neuron(layer=1, index=3),)

    Source: activation contrasting between checkpoints, arXiv 2406.14144. Cost: one forward pass for
    each prompt, answers to the positive prompts, and two forward passes for each positive prompt
    with its answer, one prompt at a time.

    Attributes:
        base: the model before tuning: a TransformerBridge or HookedTransformer with as many neurons
            in each layer. Circuits record its hash.
        answer_tokens: tokens of each positive prompt's answer that are read, at most.
        base_sha256: hash of the base's weights.
    """

    base: HookedModel = field(repr=False, compare=False, metadata=NO_SETTING)
    answer_tokens: int = 8
    base_sha256: str = field(init=False)
    name: ClassVar[str] = "change_from_base"
    needs: ClassVar[Needs] = "gradients"

    def __post_init__(self) -> None:
        """Reject invalid settings, and hash the base.

        Raises:
            ModelError: the base is no model with hook points.
            InputError: answer_tokens is not a whole number from 0 on.
        """
        check_model(self.base)
        check_whole("answer_tokens", self.answer_tokens)
        object.__setattr__(self, "base_sha256", weights_hash(self.base))

    def check(self, model: HookedModel, n_positive: int, n_negative: int) -> None:  # noqa: ARG002
        """Raise an error for a model that the ranking cannot use.

        Raises:
            InputError: answers are needed and there is no tokenizer; the base has another
                vocabulary, its neurons in other layers, or the same weights as the model; or its
                weights have changed since it was given.
            ModelError: neurons are experts', or the base is in training mode.
        """
        check_answer_tokens(model, self.answer_tokens)
        if weights_hash(self.base) != self.base_sha256:
            raise InputError(
                f"the weights of the base {model_name(self.base)} have changed since "
                "ChangeFromBase was made; make it of a copy that stays as it is"
            )
        for what, here, there in (
            ("vocabulary", int(model.cfg.d_vocab), int(self.base.cfg.d_vocab)),
            ("layers with neurons", mlp_hook_names(model), mlp_hook_names(self.base)),
        ):
            if here != there:
                raise InputError(
                    f"{model_name(model)} and its base {model_name(self.base)} differ in their "
                    f"{what}; give the model that it was tuned from"
                )
        if weights_hash(model) == self.base_sha256:
            raise InputError(
                f"{model_name(model)} has the weights of its base, so that nothing changed; give "
                "the model that it was tuned from"
            )

    def score(self, collected: Collected) -> NeuronScores:
        """Score every neuron.

        Raises:
            InputError: a layer of the base has another number of neurons.
        """
        reader, prompts = collected.model_and_prompts()
        layout = collected.positive.layout
        squares, n = torch.zeros(layout.n_neurons, dtype=torch.float64), 0
        texts = own_answers(reader.model, prompts.ids, self.answer_tokens)
        for text in tqdm(
            texts, desc="reading both models", unit="prompt", disable=not reader.progress
        ):
            here, there = (_read(model, text) for model in (reader.model, self.base))
            widths, of_base = ([layer.shape[1] for layer in side] for side in (here, there))
            if widths != of_base:
                raise InputError(
                    f"the layers of {model_name(reader.model)} have {widths} neurons, those of its "
                    f"base {model_name(self.base)} have {of_base}; give the model that it was "
                    "tuned from"
                )
            squares += (torch.cat(here, dim=1) - torch.cat(there, dim=1)).pow(2).sum(0)
            n += len(here[0])
        return collected.scored(self, (squares / n).sqrt(), "activation")


def _read(model: HookedModel, text: Text) -> list[Float64[Tensor, "read_pos d_mlp"]]:
    """Each layer's activations from the prompt's last token on."""
    read: dict[str, Tensor] = {}

    def keep(name: str, activation: Tensor, hook: Any) -> None:  # noqa: ARG001
        read[name] = activation[0, text.prompt_length - 1 :].cpu().double()

    names = [name for name in mlp_hook_names(model) if name is not None]
    ids = torch.tensor([text.ids], device=input_device(model))
    with (
        torch.no_grad(),
        model.hooks(fwd_hooks=[(name, partial(keep, name)) for name in names]),
        prompt_lengths([text.prompt_length]),
    ):
        forward_logits(model, ids, torch.ones_like(ids), None, len(text.ids) - 1)
    return [read[name] for name in names]
