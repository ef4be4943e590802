"""Small tasks in lm-eval's own file format, with their data."""

import contextlib
import json
import random

import pytest
import yaml


@contextlib.contextmanager
def data_sets_offline(cache):
    """Data sets from local files only, kept in a folder that goes away."""
    import datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        yield


def write(folder, name, rows, **settings):
    """A task file and its rows; returns the folder."""
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
    """Rows of a question, its choices and the place of the right one."""
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
    """Rows of a question and its answer."""
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
    """Questions of tiny words; choices of one, two and one tokens."""
    draw = random.Random(seed)

    def words(count):
        # Words that begin with "w1" or "w2" would be read as the special tokens w1 and w2.
        return " ".join(f"w{draw.randrange(30, 60)}" for _ in range(count))

    return [
        (words(3), [words(length) for length in (1, 2, 1)], draw.randrange(3)) for _ in range(n)
    ]
