"""The activations of chosen neurons at every token of prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from cna_lens.errors import InputError
from cna_lens.models.hooked_model import HookedModel, model_name
from cna_lens.models.inside.matching import check_circuit
from cna_lens.models.inside.projections import layout_of
from cna_lens.models.inside.sites import mlp_hook_names
from cna_lens.models.prompts.encoding import Chat, Prompt, TokenIds, encode
from cna_lens.models.running.batching import BatchSize, check_batch_size
from cna_lens.models.running.forward import SharedPrefix, forward_trunk
from cna_lens.models.running.memory import run_in_batches
from cna_lens.models.running.positions import prompt_lengths
from cna_lens.models.tokens.token_texts import token_texts
from cna_lens.results.circuit import Circuit
from cna_lens.results.neurons import Neuron, NeuronLike, as_neuron, is_neuron

if TYPE_CHECKING:
    import pandas as pd

# Prompts have different numbers of tokens, so that no dimension is named "token".
OfPrompt = Float[Tensor, "_ neuron"]


@dataclass(frozen=True, eq=False)
class TokenActivations:
    """The activations of some neurons at every token of some prompts.

    Attributes:
        model: the model's name.
        neurons: the neurons on the last axis of `values`.
        tokens: the tokens of each prompt, as text; a token that continues a character is "".
        values: the activations at each prompt's tokens.
    """

    model: str
    neurons: tuple[Neuron, ...]
    tokens: tuple[tuple[str, ...], ...]
    values: tuple[OfPrompt, ...]

    def __post_init__(self) -> None:
        """Require one activation for each token and neuron."""
        shapes = [tuple(values.shape) for values in self.values]
        expected = [(len(tokens), len(self.neurons)) for tokens in self.tokens]
        if shapes != expected:
            raise InputError(f"the activations have the shapes {shapes}, expected {expected}")

    @property
    def peaks(self) -> tuple[float, ...]:
        """The first neuron's largest activation on each prompt, after the prompt's first token.

        On every prompt, some neurons are a hundred times as active at the first token as anywhere
        else (Sun et al., Massive Activations in Large Language Models, 2024). The first token
        counts only in a prompt of one token.
        """
        behind_first = [
            values[1:, 0] if len(values) > 1 else values[:, 0] for values in self.values
        ]
        return tuple(float(values.nan_to_num(-torch.inf).max()) for values in behind_first)

    def strongest(self, n: int = 10) -> TokenActivations:
        """Select the prompts on which the first neuron peaks highest, highest first."""
        order = torch.tensor(self.peaks).sort(descending=True, stable=True).indices[:n].tolist()
        return TokenActivations(
            self.model,
            self.neurons,
            tuple(self.tokens[place] for place in order),
            tuple(self.values[place] for place in order),
        )

    def to_frame(self) -> pd.DataFrame:
        """A data frame with a row for each token of each prompt, and a column for each neuron."""
        import pandas as pd

        return pd.concat(
            [
                pd.DataFrame(
                    {
                        "prompt": place,
                        "pos": range(len(tokens)),
                        "token": tokens,
                        **{
                            neuron.label: values[:, column].tolist()
                            for column, neuron in enumerate(self.neurons)
                        },
                    }
                )
                for place, (tokens, values) in enumerate(zip(self.tokens, self.values, strict=True))
            ],
            ignore_index=True,
        )

    def __repr__(self) -> str:
        """One useful line."""
        return (
            f"TokenActivations({len(self.neurons)} neurons, {sum(map(len, self.tokens))} tokens "
            f"of {len(self.tokens)} prompts, model {self.model})"
        )


def token_activations(
    model: HookedModel,
    neurons: Iterable[NeuronLike] | NeuronLike,
    prompts: Sequence[Prompt],
    *,
    chat: Chat = "auto",
    batch_size: BatchSize = "auto",
    progress: bool = False,
) -> TokenActivations:
    """Read the activations of chosen neurons at every token of each prompt.

    Inside `steer` they are the steered model's; steered neurons are read after the change. Values
    that are not finite are kept as they are. Cost: one forward pass for each prompt; only the
    chosen neurons are kept.

    >>> found = token_activations(tiny_model, [Neuron(1, 3)], [[5, 6, 7]])
    >>> found.tokens, found.values[0].shape
    ((('w5', 'w6', 'w7'),), torch.Size([3, 1]))

    Args:
        model: a TransformerBridge or HookedTransformer.
        neurons: a circuit, one neuron, or (layer, index) pairs.
        prompts: strings, lists of chat messages, or token ids.
        chat: put strings into the chat template; "auto" where the tokenizer has one.
        batch_size: prompts for each forward pass; "auto" fits them to the free memory.
        progress: show a progress bar.

    Raises:
        InputError: the prompts are invalid, or there is no neuron, or the model lacks one.
        CircuitMismatchError: the circuit is of a model with another shape.
        ModelError: the model's neurons cannot be reached.
    """
    check_batch_size(batch_size)
    names = mlp_hook_names(model)
    chosen = _checked(model, neurons, names)
    ids = encode(model, prompts, chat=chat).ids
    values: dict[int, OfPrompt] = {}
    for batch, found in run_in_batches(
        model,
        list(map(len, ids)),
        lambda batch: _read(model, [ids[place] for place in batch], chosen, names),
        desc="reading",
        batch_size=batch_size,
        progress=progress,
    ):
        values |= dict(zip(batch, found, strict=True))
    return TokenActivations(
        model=model_name(model),
        neurons=chosen,
        tokens=tuple(token_texts(model, prompt) for prompt in ids),
        values=tuple(values[place] for place in range(len(ids))),
    )


def _checked(
    model: HookedModel,
    neurons: Iterable[NeuronLike] | NeuronLike,
    names: tuple[str | None, ...],
) -> tuple[Neuron, ...]:
    if isinstance(neurons, Circuit):
        check_circuit(model, neurons, allow_other_model=True)
    try:
        several = (neurons,) if is_neuron(neurons) else cast("Iterable[NeuronLike]", neurons)
        given = [as_neuron(neuron) for neuron in several]
    except (TypeError, ValueError) as error:
        raise InputError(
            f"neurons is {neurons!r}, expected a circuit or (layer, index) pairs"
        ) from error
    chosen = tuple(neuron for neuron in given if isinstance(neuron, Neuron))
    if len(chosen) < len(given):
        raise InputError("neurons of experts cannot be read token by token; leave them out")
    if not chosen:
        raise InputError("there are no neurons to read; give a circuit or (layer, index) pairs")
    layout = layout_of(model)
    if layout is not None:
        layout.flat_all(chosen)
        return chosen
    # Quantised weights do not say how many neurons a layer has; its activations will.
    for layer in {neuron.layer for neuron in chosen}:
        if not 0 <= layer < len(names):
            raise InputError(
                f"layer {layer} does not exist: the model has layers 0 to {len(names) - 1}"
            )
        if names[layer] is None:
            raise InputError(f"layer {layer} has no MLP, and so no neurons; leave it out")
    return chosen


def _read(
    model: HookedModel,
    prompts: Sequence[TokenIds],
    neurons: tuple[Neuron, ...],
    names: tuple[str | None, ...],
) -> list[OfPrompt]:
    ids, mask = SharedPrefix(0).pad(model, prompts)
    read = torch.empty((*ids.shape, len(neurons)))
    columns: dict[int, list[int]] = {}
    for column, neuron in enumerate(neurons):
        columns.setdefault(neuron.layer, []).append(column)

    def keep(activation: Tensor, hook: Any, *, layer: int) -> None:  # noqa: ARG001
        indices = [neurons[column].index for column in columns[layer]]
        width = activation.shape[-1]
        if outside := [index for index in indices if not 0 <= index < width]:
            raise InputError(
                f"neuron {outside[0]} does not exist in layer {layer}, which has neurons 0 to "
                f"{width - 1}"
            )
        read[..., columns[layer]] = activation[..., indices].to(read)

    hooks: list[tuple[str, Callable[..., None]]] = [
        (name, partial(keep, layer=layer))
        for layer in columns
        if (name := names[layer]) is not None
    ]
    lengths = list(map(len, prompts))
    with torch.no_grad(), prompt_lengths(lengths), model.hooks(fwd_hooks=hooks):
        forward_trunk(model, ids, mask)
    return [read[row, :length].clone() for row, length in enumerate(lengths)]
