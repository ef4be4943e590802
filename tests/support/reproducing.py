"""The command that reproduces the paper, on tiny checkpoints."""

import json

import pytest

from experiments import __main__ as experiments

SETTINGS = """
limit = 3
block_size = 2
max_new_tokens = 5
discovery = "refusal_small"
fraction = 0.05
top = 6
strengths = [0.0, 1.0]
fractions = [0.05]
ranking_fractions = [0.05]
control_seeds = [0]
n_resamples = 10
capability = "factual"
"""


PAIRS = {"Llama-3.2-1B": "tiny/llama", "Qwen2.5-3B": "tiny/qwen2"}


def write_settings(path, *names, extra=""):
    pairs = [
        f'[[pairs]]\nname = "{name}"\ninstruct = "{PAIRS[name]}-Instruct"\nbase = "{PAIRS[name]}"'
        for name in names
    ]
    path.write_text("\n".join([SETTINGS, extra, *pairs]))
    return path


def reproduce(name, config, mirror, out, *options):
    """Run the command and return its exit code."""
    arguments = [name, "--config", config, "--hub-root", mirror, "--out", out]
    with pytest.raises(SystemExit) as ended:
        experiments.main([*map(str, arguments), "--device", "cpu", *map(str, options)])
    return ended.value.code or 0


def records(out):
    return {
        record["key"]: record
        for record in map(json.loads, (out / "records.jsonl").read_text().splitlines()[1:])
    }


def values(out):
    return {key: record["values"] for key, record in records(out).items()}
