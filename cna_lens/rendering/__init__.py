"""How results show themselves: one summary, as a table in a terminal and as HTML in a notebook."""

from cna_lens.rendering.html import embedded_json, escaped, styled, text_html
from cna_lens.rendering.neurons import neuron_table, per_layer
from cna_lens.rendering.summary import Cell, Summarized, Summary, Table, summary_of

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
