"""Peak memory of discovery over the loaded model, in a process of its own.

`python -m experiments.benchmarks.peak_memory 2000` prints it for 2000 prompts, in MiB.
"""

from __future__ import annotations

import json
import sys

import cna_lens
from experiments.benchmarks.memory_watch import growth_mib
from experiments.shared.random_models import random_prompts

TOKENS = 42
SHARED = 24


def peak_mib(n_prompts: int) -> float:
    """The highest resident memory while a circuit is found, less what the model took before."""
    model = cna_lens.load_model("demo", device="cpu")
    prompts = random_prompts(n_prompts, TOKENS, SHARED, int(model.cfg.d_vocab))
    half = n_prompts // 2
    # Two prompts more, so that what PyTorch sets up once is not counted.
    cna_lens.find_circuit(model, prompts[:1], prompts[-1:], universal=None, progress=False)
    return growth_mib(
        lambda: cna_lens.find_circuit(
            model, prompts[:half], prompts[half:], universal=None, progress=False
        )
    )


if __name__ == "__main__":
    sys.stdout.write(json.dumps({"mib": peak_mib(int(sys.argv[1]))}) + "\n")
