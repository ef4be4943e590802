"""Train a few neurons of a model, and freeze all its other weights."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cna_lens.results import Neuron


class PlantedMLP(nn.Module):
    r"""A gated MLP of which the weights of some neurons J are trained.

    $$y = W_{\text{down}}\,a + \Delta_{\text{down}}\,a_J, \qquad
    a = \sigma(W_{\text{gate}} x + \Delta_{\text{gate}} x) \odot
    (W_{\text{up}} x + \Delta_{\text{up}} x)$$

    where the differences of gate and up are rows of the neurons J and 0 elsewhere. This is the MLP
    with the differences added to its weights, but only they have gradients.
    """

    def __init__(self, mlp: Any, indices: Sequence[int]) -> None:
        """Begin with differences of 0."""
        super().__init__()
        # In a list, the frozen weights belong neither to the parameters nor to a checkpoint.
        self._frozen = [mlp]
        weight = mlp.gate_proj.weight
        self.indices = torch.tensor(list(indices), device=weight.device)
        shape = (len(indices), weight.shape[1])
        for name in ("gate", "up", "down"):
            self.register_parameter(name, nn.Parameter(torch.zeros(shape, device=weight.device)))
        self.enabled = True

    def forward(self, x: Tensor) -> Tensor:
        """The MLP's output, with the differences where they are enabled."""
        (mlp,) = self._frozen
        if not self.enabled:
            return mlp(x)
        gate = mlp.gate_proj(x).index_add(-1, self.indices, x @ self.gate.T)
        up = mlp.up_proj(x).index_add(-1, self.indices, x @ self.up.T)
        activation = mlp.act_fn(gate) * up
        return mlp.down_proj(activation) + activation[..., self.indices] @ self.down


class PlantedNeurons(nn.Module):
    """A Hugging Face model with gated MLPs, of which only some neurons are trained."""

    def __init__(self, model: Any, neurons: Sequence[Neuron]) -> None:
        """Put a `PlantedMLP` in place of the MLP of each layer that has planted neurons."""
        super().__init__()
        # In a list, as above, so that a checkpoint holds only the differences.
        self._model = [model.requires_grad_(False)]
        self.neurons = tuple(neurons)
        layers = sorted({neuron.layer for neuron in neurons})
        self.mlps = nn.ModuleDict()
        for layer in layers:
            block = model.model.layers[layer]
            indices = [neuron.index for neuron in neurons if neuron.layer == layer]
            block.mlp = self.mlps[str(layer)] = PlantedMLP(block.mlp, indices)

    def forward(self, **inputs: Any) -> Any:
        """The output of the model with its planted neurons."""
        return self._model[0](**inputs)

    @contextmanager
    def disable_adapter(self) -> Generator[None]:
        """The model as it was before, within the context."""
        try:
            self._enable(False)
            yield
        finally:
            self._enable(True)

    def _enable(self, enabled: bool) -> None:
        for mlp in self.mlps.values():
            mlp.enabled = enabled

    def differences(self) -> dict[str, Tensor]:
        """The trained differences of gate, up and down: one row for each neuron, in their order."""
        place = {
            Neuron(int(layer), index): (mlp, row)
            for layer, mlp in self.mlps.items()
            for row, index in enumerate(mlp.indices.tolist())
        }
        found = [place[neuron] for neuron in self.neurons]
        return {
            name: torch.stack([getattr(mlp, name)[row].detach().cpu() for mlp, row in found])
            for name in ("gate", "up", "down")
        }
