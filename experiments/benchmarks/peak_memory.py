"""Peak memory of discovery over the loaded model, in a process of its own.

`python -m experiments.benchmarks.peak_memory 2000` prints it for 2000 prompts, in MiB.
"""

from __future__ import annotations

import json
import sys
import threading

import psutil

import cna_lens
from experiments.benchmarks.random_models import random_prompts

TOKENS = 42
SHARED = 24


def peak_mib(n_prompts: int) -> float:
    """The highest resident memory while a circuit is found, less what the model took before."""
    model = cna_lens.load_model("demo", device="cpu")
    prompts = random_prompts(n_prompts, TOKENS, SHARED, int(model.cfg.d_vocab))
    half = n_prompts // 2
    process = psutil.Process()
    # Two prompts more, so that what PyTorch sets up once is not counted.
    cna_lens.find_circuit(model, prompts[:1], prompts[-1:], universal=None, progress=False)
    before = process.memory_info().rss
    done = threading.Event()
    highest = before

    def watch() -> None:
        nonlocal highest
        while not done.wait(0.002):
            highest = max(highest, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        cna_lens.find_circuit(model, prompts[:half], prompts[half:], universal=None, progress=False)
    finally:
        done.set()
        watcher.join()
    return (highest - before) / 2**20


if __name__ == "__main__":
    sys.stdout.write(json.dumps({"mib": peak_mib(int(sys.argv[1]))}) + "\n")
