"""Views of results: Matplotlib figures, and CircuitsVis pages that work without a network.

They show result types and compute nothing.

    from cna_lens import viz
    viz.layers({"base": base, "instruct": instruct}, style="paper").save("layers")
    viz.tokens(model, circuit, prompts)
"""

from importlib.util import find_spec

import lazy_loader

from cna_lens.errors import CnaLensError

if missing := [name for name in ("matplotlib", "circuitsvis") if find_spec(name) is None]:
    raise CnaLensError(
        f"cna_lens.viz needs {' and '.join(missing)}; install it with pip install 'cna-lens[viz]'"
    )

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
