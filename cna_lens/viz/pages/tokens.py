"""Prompts with their tokens coloured by neurons."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import cast

from cna_lens.errors import InputError
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.prompts.encoding import Chat, Prompt
from cna_lens.models.tokens.token_activations import TokenActivations, token_activations
from cna_lens.results.circuit import Circuit
from cna_lens.results.neurons import Neuron, NeuronLike, is_neuron
from cna_lens.results.rendering import escaped, styled
from cna_lens.viz.pages.coloured import Values, coloured_tokens
from cna_lens.viz.pages.pages import Page

UNIT = "activation"


def tokens(
    model: HookedModel,
    circuit: Iterable[NeuronLike] | NeuronLike,
    prompts: Sequence[Prompt],
    *,
    strongest: int = 20,
    chat: Chat = "auto",
) -> Page:
    """Show each prompt's tokens, coloured by a neuron of the circuit that a picker chooses.

    Give one neuron to see that neuron alone. This is `show_tokens` of `token_activations`. Each
    neuron has one scale for all prompts: blue is positive, orange negative, white 0. A prompt's
    first token is coloured too but does not stretch the scale, since some neurons are a hundred
    times as active there as anywhere else. A character made of several tokens stands whole at the
    first of them, and ⋯ at the others.

    >>> circuit = Circuit((Neuron(1, 3), Neuron(0, 2)), (2.5, -1.0), tiny_layout)
    >>> tokens(tiny_model, circuit, [[5, 6, 7]])
    Page('2 neurons at each token of tiny-llama', 1 view)
    >>> tokens(tiny_model, (1, 3), [[5, 6, 7]])
    Page('Layer 1, neuron 3 at each token of tiny-llama', 1 view)

    Args:
        model: a TransformerBridge or HookedTransformer.
        circuit: a circuit, one neuron, or (layer, index) pairs.
        prompts: strings, lists of chat messages, or token ids.
        strongest: the picker offers this many neurons, the first of the circuit.
        chat: put strings into the chat template; "auto" where the tokenizer has one.

    Raises:
        InputError: bad prompts or neurons.
        CircuitMismatchError: a circuit of a model of another shape.
        ModelError: the model's neurons cannot be reached.
    """
    if strongest < 1:
        raise InputError(f"strongest is {strongest}, expected at least 1 neuron")
    if isinstance(circuit, Circuit):
        chosen = Circuit(
            circuit.neurons[:strongest],
            circuit.scores[:strongest],
            circuit.layout,
            circuit.provenance,
        )
    elif is_neuron(circuit):
        chosen = (circuit,)
    else:
        chosen = tuple(islice(cast("Iterable[NeuronLike]", circuit), strongest))
    return show_tokens(token_activations(model, chosen, prompts, chat=chat))


def show_tokens(found: TokenActivations) -> Page:
    """Show the tokens of `token_activations`, coloured by a neuron that a picker chooses.

    >>> from cna_lens import token_activations
    >>> show_tokens(token_activations(tiny_model, [(1, 3)], [[5, 6, 7]]))
    Page('Layer 1, neuron 3 at each token of tiny-llama', 1 view)
    """
    # A picker names the neurons, and there is none for one.
    shown = (
        _name(found.neurons[0]).capitalize()
        if len(found.neurons) == 1
        else f"{len(found.neurons)} neurons"
    )
    title = f"{shown} at each token of {found.model}"
    headings = [f"prompt {place}" for place in range(len(found.tokens))]
    return _page(title, found, headings)


def top_examples(
    model: HookedModel,
    neuron: Neuron | tuple[int, int],
    prompts: Sequence[Prompt],
    *,
    n: int = 10,
    chat: Chat = "auto",
) -> Page:
    """Show the prompts where a neuron is most active after the first token, strongest first.

    >>> top_examples(tiny_model, (1, 3), [[5, 6, 7], [8, 9]], n=1)
    Page('Where layer 1, neuron 3 of tiny-llama is most active', 1 view)

    Args:
        model: a TransformerBridge or HookedTransformer.
        neuron: (layer, index).
        prompts: strings, lists of chat messages, or token ids.
        n: the number of prompts to show.
        chat: put strings into the chat template; "auto" where the tokenizer has one.

    Raises:
        InputError: bad prompts, or a neuron that the model does not have.
        ModelError: the model's neurons cannot be reached.
    """
    if n < 1:
        raise InputError(f"n is {n}, expected at least 1 prompt")
    found = token_activations(model, [neuron], prompts, chat=chat).strongest(n)
    headings = [
        f"{place + 1} of {len(prompts)}: at most {peak:+.3g}"
        for place, peak in enumerate(found.peaks)
    ]
    title = f"Where {_name(found.neurons[0])} of {found.model} is most active"
    return _page(title, found, headings)


def _page(title: str, found: TokenActivations, headings: Sequence[str]) -> Page:
    choices = [
        Values(
            _name(neuron),
            [values[:, place].tolist() for values in found.values],
            first_token_counts=False,
        )
        for place, neuron in enumerate(found.neurons)
    ]
    body = coloured_tokens(headings, found.tokens, choices, UNIT)
    return Page(
        [styled(f'<div class="cna-view"><p class="cna-title">{escaped(title)}</p>{body}</div>')],
        title,
        scripts=True,
    )


def _name(neuron: Neuron) -> str:
    return f"layer {neuron.layer}, neuron {neuron.index}"
