"""Peak memory of discovery over the loaded model, in a process of its own.

`python -m experiments.benchmarks.peak_memory 2000` prints it for 2000 prompts, in MiB.
"""

from __future__ import annotations

import json
import sys

import cna_lens
from experiments.benchmarks.memory_watch import growth_mib
from experiments.shared.random_models import find_in_halves, random_prompts

TOKENS = 42
SHARED = 24


def peak_mib(n_prompts: int) -> float:
    """The growth of resident memory over the loaded model while a circuit is found."""
    model = cna_lens.load_model("demo", device="cpu")
    prompts = random_prompts(n_prompts, TOKENS, SHARED, int(model.cfg.d_vocab))
    # Two prompts go first, so that PyTorch's one-time setup is not counted.
    find_in_halves(model, [prompts[0], prompts[-1]])
    return growth_mib(lambda: find_in_halves(model, prompts))


if __name__ == "__main__":
    sys.stdout.write(json.dumps({"mib": peak_mib(int(sys.argv[1]))}) + "\n")
