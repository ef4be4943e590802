"""Results that show themselves in a terminal and in a notebook."""

from __future__ import annotations

from abc import ABC, abstractmethod

from cna_lens.results.rendering.html import summary_html
from cna_lens.results.rendering.summary import Summary
from cna_lens.results.rendering.text import plain_text


class Summarized(ABC):
    """A result that prints as a table and is shown as HTML in a notebook."""

    @abstractmethod
    def _summary(self) -> Summary:
        """The summary that is shown."""

    def __str__(self) -> str:
        """A table for the terminal."""
        return plain_text(self._summary())

    def _repr_html_(self) -> str:
        """Self-contained HTML for a notebook."""
        return summary_html(self._summary())


def summary_of(result: Summarized) -> Summary:
    """The summary of a result."""
    return result._summary()  # pyright: ignore[reportPrivateUsage]
