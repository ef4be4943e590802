"""The settings of steering in `play`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from cna_lens.models.running.positions import Positions

Method = Literal["cna", "random", "caa"]

METHODS: tuple[Method, ...] = get_args(Method)

SCOPES: Mapping[str, Positions] = {
    "all": "all",
    "prompt": "prompt",
    "last": "last_prompt",
    "from_last": "from_last_prompt",
    "generated": "generated",
}


@dataclass(frozen=True)
class Settings:
    """The values of `/multiplier`, `/k`, `/method`, `/scope` and `/length`.

    Attributes:
        multiplier: factor for the neurons' activations; CAA's strength is 1 - multiplier.
        k: number of the circuit's neurons that are steered, the strongest first.
        method: "cna" scales the circuit's neurons; "random" scales as many random neurons of the
            same layers, the control; "caa" subtracts the difference of the mean MLP outputs.
        scope: the tokens that are steered, a name in `SCOPES`.
        length: maximum number of tokens per answer.
    """

    multiplier: float
    k: int
    method: Method = "cna"
    scope: str = "all"
    length: int = 64

    def __str__(self) -> str:
        """Return one line."""
        if self.method == "caa":
            return f"caa, strength {1 - self.multiplier:g}, scope {self.scope}"
        return f"{self.method}, k = {self.k}, multiplier {self.multiplier:g}, scope {self.scope}"
