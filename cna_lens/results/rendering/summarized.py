"""A result that shows itself."""

from __future__ import annotations

from abc import ABC, abstractmethod

from cna_lens.results.rendering.html import summary_html
from cna_lens.results.rendering.summary import Summary
from cna_lens.results.rendering.text import plain_text


class Summarized(ABC):
    """A result that prints as a table, and shows itself in a notebook."""

    @abstractmethod
    def _summary(self) -> Summary:
        """What is shown."""

    def __str__(self) -> str:
        """A table for the terminal."""
        return plain_text(self._summary())

    def _repr_html_(self) -> str:
        """HTML for a notebook, which needs nothing but itself."""
        return summary_html(self._summary())


def summary_of(result: Summarized) -> Summary:
    """What a result shows of itself."""
    return result._summary()  # pyright: ignore[reportPrivateUsage]
