import json

import datasets
import numpy as np
import pandas as pd
import pytest

from cna_lens import InputError, read_prompts

CARD = """---
configs:
- config_name: harmful
  data_files:
  - split: train
    path: data/harmful-train.csv
  - split: test
    path: data/harmful-test.csv
- config_name: benign
  data_files:
  - split: train
    path: data/benign-train.csv
---
# Prompts
"""


@pytest.fixture(autouse=True)
def nothing_is_kept_or_downloaded(monkeypatch, tmp_path_factory):
    cache = tmp_path_factory.mktemp("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.fixture
def data_set(tmp_path):
    """A folder as the Hub lays it out, with a card, two configurations and two splits."""
    folder = tmp_path / "prompts"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    for name in ("harmful-train", "harmful-test", "benign-train"):
        rows = f"Goal,Category\n{name} one?,x\n{name} two?,y\n"
        (folder / "data" / f"{name}.csv").write_text(rows)
    return folder


@pytest.mark.parametrize(
    ("config", "split"), [("harmful", "train"), ("harmful", "test"), ("benign", "train")]
)
def test_a_configuration_and_split_of_a_data_set_are_read(data_set, config, split):
    prompts = read_prompts(data_set, column="Goal", config=config, split=split)
    assert prompts == [f"{config}-{split} one?", f"{config}-{split} two?"]


def test_a_folder_of_plain_files_is_a_data_set(tmp_path):
    (tmp_path / "train.csv").write_text("prompt,label\nOne?,x\nTwo?,y\n")
    assert read_prompts(str(tmp_path), split="train") == ["One?", "Two?"]


def test_chat_messages_of_a_data_set_are_unchanged(tmp_path):
    messages = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because"}]
    (tmp_path / "train.jsonl").write_text(json.dumps({"messages": messages, "id": 1}) + "\n")
    assert read_prompts(tmp_path, split="train") == [messages]


def test_a_split_must_be_named(data_set):
    with pytest.raises(InputError, match="has the splits train, test; pass one of them"):
        read_prompts(data_set, column="Goal", config="harmful")


@pytest.mark.parametrize(
    ("arguments", "telling"),
    [
        ({"config": "harmful", "split": "train"}, "no column 'prompt'; it has: Goal, Category"),
        ({"config": "harmful", "split": "train", "column": "goal"}, "it has: Goal, Category"),
        ({"config": "harmful", "split": "dev"}, "cannot be loaded.*dev"),
        ({"config": "neutral", "split": "train"}, "cannot be loaded.*neutral"),
        ({"split": "train"}, "cannot be loaded.*harmful"),
    ],
)
def test_wrong_arguments_for_a_data_set_are_refused(data_set, arguments, telling):
    with pytest.raises(InputError, match=f"(?s){telling}") as raised:
        read_prompts(data_set, **arguments)
    assert str(data_set) in str(raised.value)


def test_an_empty_folder_is_not_a_data_set(tmp_path):
    with pytest.raises(InputError, match="and cannot be loaded as a data set"):
        read_prompts(tmp_path)


MESSAGES = [[{"role": "user", "content": text}] for text in ("One?", "Two?")]
COLUMNS = {"Goal": ["One?", "Two?"], "messages": MESSAGES, "label": [0, 1]}
ROWS = [{name: values[place] for name, values in COLUMNS.items()} for place in range(2)]
IN_MEMORY = {
    "a data frame": lambda: pd.DataFrame(COLUMNS),
    "a data frame with labels of its own": lambda: pd.DataFrame(COLUMNS, index=[7, 7]),
    "a Dataset": lambda: datasets.Dataset.from_dict(COLUMNS),
    "rows": lambda: ROWS,
    "a generator of rows": lambda: iter(ROWS),
}


@pytest.mark.parametrize("name", IN_MEMORY)
def test_prompts_of_a_table_in_memory_are_read_from_its_column(name):
    assert read_prompts(IN_MEMORY[name](), column="Goal") == ["One?", "Two?"]
    assert read_prompts(IN_MEMORY[name]()) == MESSAGES
    with pytest.raises(InputError, match="no column 'goal'; it has: Goal, messages, label"):
        read_prompts(IN_MEMORY[name](), column="goal")


@pytest.mark.parametrize(
    "column",
    [
        pd.Series(["One?", "Two?"], index=[3, 1]),
        datasets.Dataset.from_dict(COLUMNS)["Goal"],
        np.array(["One?", "Two?"]),
        ["One?", "Two?"],
    ],
    ids=["series", "column of a Dataset", "array", "list"],
)
def test_a_column_of_texts_is_prompts(column):
    assert read_prompts(column) == ["One?", "Two?"]


def test_an_empty_text_in_a_column_is_refused():
    for column in (["One?", "", "Two?"], pd.Series(["One?", " "])):
        with pytest.raises(InputError, match="has an empty prompt in row 2"):
            read_prompts(column)


def test_a_column_of_chat_messages_is_prompts_also_where_pandas_has_arrays(tmp_path):
    assert read_prompts(pd.Series(MESSAGES)) == MESSAGES
    assert read_prompts(datasets.Dataset.from_dict(COLUMNS)["messages"]) == MESSAGES
    pd.DataFrame(COLUMNS).to_parquet(tmp_path / "table.parquet")
    read_back = pd.read_parquet(tmp_path / "table.parquet")
    assert isinstance(read_back["messages"][0], np.ndarray)
    assert read_prompts(read_back, column="messages") == MESSAGES


def test_a_split_of_a_data_set_in_memory_is_chosen():
    both = datasets.DatasetDict(
        train=datasets.Dataset.from_dict({"prompt": ["One?"]}),
        test=datasets.Dataset.from_dict({"prompt": ["Two?"]}),
    )
    assert read_prompts(both, split="test") == ["Two?"]
    with pytest.raises(InputError, match="the DatasetDict has the splits train, test"):
        read_prompts(both)
    with pytest.raises(InputError, match="a Dataset has no splits"):
        read_prompts(both["train"], split="train")
    with pytest.raises(InputError, match="only a data set's name has configurations"):
        read_prompts(both["train"], config="plain")


@pytest.mark.parametrize(
    "table",
    [pd.Series(["One?", None]), pd.DataFrame({"prompt": ["One?", float("nan")]}), [1, 2]],
    ids=["a missing value", "not a number", "numbers"],
)
def test_what_is_no_prompt_in_a_table_is_named(table):
    with pytest.raises(InputError, match=f"the {type(table).__name__} holds (None|nan|1)"):
        read_prompts(table)
