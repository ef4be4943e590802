"""The paper's numbers (arXiv 2605.12290), by the models' names in `configs/paper.toml`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeVar

TITLE = "Targeted Neuron Modulation via Contrastive Pair Search, arXiv 2605.12290"
PROMPTS = 100
MAX_NEW_TOKENS = 150
QUESTIONS = 1000
DTYPE = "bfloat16"
TOP = 200
TASKS = {"refusal": True, "capitals": False, "agreement": False}
"""The paper's three tasks, and whether their prompts go into the chat template."""


class Swept(NamedTuple):
    """A line of table 1 or 2, at strength 1: shares refused, and quality."""

    unsteered: float
    cna: float
    cna_quality: float
    caa: float
    caa_quality: float


def _swept(rows: Mapping[str, tuple[float, float, float, float, float]]) -> dict[str, Swept]:
    return {
        name: Swept(base / 100, cna / 100, cna_quality, caa / 100, caa_quality)
        for name, (base, cna, cna_quality, caa, caa_quality) in rows.items()
    }


TABLE1 = _swept(
    {
        "Llama-3.2-1B": (43.4, 20.2, 0.975, 0.0, 0.554),
        "Llama-3.2-3B": (57.6, 26.3, 0.977, 0.0, 0.431),
        "Llama-3.1-8B": (88.9, 5.1, 0.969, 38.4, 0.493),
        "Llama-3.1-70B": (72.7, 12.1, 0.981, 0.0, 0.569),
        "Qwen2.5-1.5B": (97.0, 26.3, 0.982, 100.0, 0.888),
        "Qwen2.5-3B": (92.9, 34.3, 0.984, 0.0, 0.844),
        "Qwen2.5-7B": (82.8, 13.1, 0.980, 5.1, 0.414),
        "Qwen2.5-72B": (65.7, 5.1, 0.983, 98.0, 0.406),
    }
)
"""Instruct models."""

TABLE2 = _swept(
    {
        "Llama-3.2-1B": (2.0, 0.0, 0.658, 3.0, 0.697),
        "Llama-3.2-3B": (4.0, 8.1, 0.758, 1.0, 0.669),
        "Llama-3.1-8B": (4.0, 2.0, 0.729, 0.0, 0.729),
        "Llama-3.1-70B": (12.1, 3.0, 0.818, 1.0, 0.656),
        "Qwen2.5-1.5B": (5.1, 3.0, 0.906, 4.0, 0.807),
        "Qwen2.5-3B": (14.1, 11.1, 0.865, 2.0, 0.812),
        "Qwen2.5-7B": (20.2, 16.2, 0.919, 2.0, 0.690),
        "Qwen2.5-72B": (35.4, 21.2, 0.962, 27.3, 0.890),
    }
)
"""Base models."""

TABLE3: Mapping[str, tuple[float, float]] = {
    "Llama-3.2-1B": (0.90, 0.34),
    "Llama-3.2-3B": (0.84, 0.47),
    "Llama-3.1-8B": (0.90, 0.34),
    "Llama-3.1-70B": (0.86, 0.18),
    "Qwen2.5-1.5B": (0.93, 0.12),
    "Qwen2.5-3B": (0.90, 0.58),
    "Qwen2.5-7B": (0.87, 0.02),
    "Qwen2.5-72B": (0.78, 0.08),
}
"""Share of JBB refused before and after ablating 0.1 %."""

Values = TypeVar("Values")


def _by_task(rows: Mapping[str, tuple[Values, Values, Values]]) -> dict[str, dict[str, Values]]:
    """Values of each model by the paper's three tasks."""
    return {name: dict(zip(TASKS, values, strict=True)) for name, values in rows.items()}


TABLE6 = _by_task(
    {
        "Llama-3.2-1B": ((0.87, 0.90), (0.865, 0.92), (0.825, 0.875)),
        "Qwen2.5-3B": ((0.58, 0.95), (0.685, 1.00), (0.575, 0.97)),
    }
)
"""Share of the top 200 in the last 3 layers, and in the last quarter."""

TABLE7 = _by_task(
    {
        "Llama-3.2-1B": ((0.82, 0.87), (0.89, 0.865), (0.805, 0.825)),
        "Qwen2.5-3B": ((0.725, 0.58), (0.615, 0.685), (0.625, 0.575)),
    }
)
"""Share of the top 200 in the last 3 layers of the base and of the instruct model."""

TABLE8 = _by_task({"Llama-3.2-1B": (0.17, 0.29, 0.39), "Qwen2.5-3B": (0.28, 0.58, 0.24)})
"""Share of the top 200 that the base and the instruct model have in common."""

STRONGREJECT: Mapping[str, float] = {"Llama": 0.06, "Qwen": 0.31}
"""Rise of the mean score after ablation, by family."""

NAMES = tuple(TABLE1)


def family(name: str) -> str | None:
    """The family of one of the paper's models, None for any other.

    >>> family("Qwen2.5-7B"), family("SmolLM2-135M")
    ('Qwen', None)
    """
    if name not in NAMES:
        return None
    return "Llama" if name.startswith("Llama") else "Qwen"
