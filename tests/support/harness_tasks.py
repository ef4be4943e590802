"""Small tasks in lm-eval's file format, with their data."""

import contextlib
import json
import random

import pytest
import yaml


@contextlib.contextmanager
def data_sets_offline(cache):
    """Let `datasets` read local files only, and cache them in a given folder."""
    import datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        yield


def write(folder, name, rows, **settings):
    """Write a task file and its rows; return the folder."""
    folder.mkdir(exist_ok=True)
    data = folder / f"{name}.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "doc_to_text": "{{question}}",
        "metadata": {"version": 1.5},
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(task | settings))
    return folder


def metrics(*names):
    return [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in names]


def multiple_choice(folder, rows, name="choice", **settings):
    """Write a task of rows with a question, its choices and the index of the correct one."""
    return write(
        folder,
        name,
        [dict(zip(("question", "choices", "answer"), row, strict=True)) for row in rows],
        output_type="multiple_choice",
        doc_to_choice="{{choices}}",
        doc_to_target="answer",
        **{"metric_list": metrics("acc", "acc_norm")} | settings,
    )


def exact_match(folder, rows, name="exact", max_new_tokens=3, **settings):
    """Write a task of rows with a question and its answer."""
    return write(
        folder,
        name,
        [dict(zip(("question", "answer"), row, strict=True)) for row in rows],
        output_type="generate_until",
        doc_to_target="{{answer}}",
        generation_kwargs={"until": ["\n"], "max_gen_toks": max_new_tokens, "do_sample": False},
        metric_list=metrics("exact_match"),
        **settings,
    )


def random_choices(n, seed=0):
    """Random questions in the words of the tiny models, with choices of one, two and one tokens."""
    draw = random.Random(seed)

    def words(count):
        return " ".join(f"w{draw.randrange(30, 60)}" for _ in range(count))

    return [
        (words(3), [words(length) for length in (1, 2, 1)], draw.randrange(3)) for _ in range(n)
    ]
