"""Contrastive Neuron Attribution for TransformerLens.

Find the MLP neurons whose activation differs most between prompts that show a behaviour and
prompts that do not, and test whether they cause it:

    model = cna_lens.load_model("demo")
    circuit = cna_lens.find_circuit(model, positive, negative)
    with cna_lens.steer(model, circuit, multiplier=0.0):
        answers = cna_lens.generate(model, prompts)
"""

from importlib.metadata import PackageNotFoundError, version

import lazy_loader

# The stub beside this file says what is public and where it is. A command that needs no model
# loads no library that models need; the command line can still say how their threads are to wait.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

try:
    __version__ = version("cna-lens")
except PackageNotFoundError:
    # Imported from its source, and never installed.
    __version__ = "unknown"
