from .figures.answers import answers as answers, outcomes as outcomes
from .figures.evidence import (
    necessity as necessity,
    null as null,
    overlap as overlap,
    stability as stability,
)
from .figures.layers import layers as layers
from .figures.league import league as league
from .figures.recall import recall as recall
from .figures.scores import scores as scores
from .figures.style import ResultFigure as ResultFigure
from .figures.sweep import pareto as pareto, sweep as sweep
from .pages.log_probs import log_probs as log_probs
from .pages.pages import Page as Page, page as page, share_bundle as share_bundle
from .pages.promotes import promotes as promotes, show_promoted as show_promoted
from .pages.tokens import show_tokens as show_tokens, tokens as tokens, top_examples as top_examples

__all__ = [
    "Page",
    "ResultFigure",
    "answers",
    "layers",
    "league",
    "log_probs",
    "necessity",
    "null",
    "outcomes",
    "overlap",
    "page",
    "pareto",
    "promotes",
    "recall",
    "scores",
    "share_bundle",
    "show_promoted",
    "show_tokens",
    "stability",
    "sweep",
    "tokens",
    "top_examples",
]
