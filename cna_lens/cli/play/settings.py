"""How the steered answers of `play` are steered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from cna_lens.models.running.positions import Positions

Method = Literal["cna", "random", "caa"]

METHODS: Mapping[Method, str] = {
    "cna": "the circuit's neurons, multiplied",
    "random": "as many random neurons of the same layers, multiplied: the control",
    "caa": "the difference of the mean MLP outputs, taken away",
}

SCOPES: Mapping[str, Positions] = {
    "all": "all",
    "prompt": "prompt",
    "last": "last_prompt",
    "from_last": "from_last_prompt",
    "generated": "generated",
}


@dataclass(frozen=True)
class Settings:
    """What `/multiplier`, `/k`, `/method`, `/scope` and `/length` have set.

    Attributes:
        multiplier: of the neurons' activations; for CAA the strength is 1 less it.
        k: how many of the circuit's neurons, the strongest first.
        method: "cna", "random" or "caa".
        scope: the tokens that are steered, by a name of `SCOPES`.
        length: tokens of an answer at most.
    """

    multiplier: float
    k: int
    method: Method = "cna"
    scope: str = "all"
    length: int = 64

    def __str__(self) -> str:
        """One line."""
        if self.method == "caa":
            return f"caa, strength {1 - self.multiplier:g}, scope {self.scope}"
        return f"{self.method}, k = {self.k}, multiplier {self.multiplier:g}, scope {self.scope}"
