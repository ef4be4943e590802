"""How results are shown: one summary, as a table in a terminal and as HTML in a notebook."""

from cna_lens.results.rendering.html import embedded_json, escaped, styled, text_html
from cna_lens.results.rendering.neurons import neuron_table, per_layer
from cna_lens.results.rendering.summarized import Summarized, summary_of
from cna_lens.results.rendering.summary import Cell, Summary, Table

__all__ = [
    "Cell",
    "Summarized",
    "Summary",
    "Table",
    "embedded_json",
    "escaped",
    "neuron_table",
    "per_layer",
    "styled",
    "summary_of",
    "text_html",
]
