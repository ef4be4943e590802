"""Views of results: Matplotlib figures, and CircuitsVis pages that work without a network.

They compute nothing: what they show comes from result types.

    from cna_lens import viz
    viz.layers({"base": base, "instruct": instruct}, style="paper").save("layers")
    viz.tokens(model, circuit, prompts)
"""

from importlib.util import find_spec

from cna_lens.errors import CnaLensError

if missing := [name for name in ("matplotlib", "circuitsvis") if find_spec(name) is None]:
    raise CnaLensError(
        f"cna_lens.viz needs {' and '.join(missing)}; install it with pip install 'cna-lens[viz]'"
    )

from cna_lens.viz.answers import answers
from cna_lens.viz.evidence import necessity, null, overlap, stability
from cna_lens.viz.figures import ResultFigure
from cna_lens.viz.layers import layers
from cna_lens.viz.log_probs import log_probs
from cna_lens.viz.pages import Page, page, share_bundle
from cna_lens.viz.promotes import promotes, show_promoted
from cna_lens.viz.scores import scores
from cna_lens.viz.sweep import pareto, sweep
from cna_lens.viz.tokens import show_tokens, tokens, top_examples

__all__ = [
    "Page",
    "ResultFigure",
    "answers",
    "layers",
    "log_probs",
    "necessity",
    "null",
    "overlap",
    "page",
    "pareto",
    "promotes",
    "scores",
    "share_bundle",
    "show_promoted",
    "show_tokens",
    "stability",
    "sweep",
    "tokens",
    "top_examples",
]
