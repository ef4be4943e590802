import runpy
import sys
from pathlib import Path

import harness_tasks
import pytest
import tiny
import torch

import cna_lens.metrics
from cna_lens import CnaLensError, InputError, ModelError
from cna_lens.metrics import mmlu, run_lm_eval


@pytest.fixture(autouse=True)
def offline(tmp_path_factory):
    with harness_tasks.data_sets_offline(tmp_path_factory.mktemp("datasets")):
        yield


@pytest.fixture
def folder(tmp_path):
    return harness_tasks.multiple_choice(tmp_path / "tasks", harness_tasks.random_choices(3))


@pytest.fixture
def without_lm_eval(monkeypatch):
    for name in ("lm_eval", "lm_eval.tasks"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize("path", sorted(Path(cna_lens.metrics.__file__).parent.rglob("*.py")))
def test_modules_are_imported_without_lm_eval(path, without_lm_eval):
    runpy.run_path(str(path))


@pytest.mark.parametrize("run", [mmlu, lambda model: run_lm_eval(model, "arc_easy")])
def test_without_lm_eval_the_error_says_how_to_install_it(llama, without_lm_eval, run):
    with pytest.raises(CnaLensError, match=r"pip install 'cna-lens\[evals\]'"):
        run(llama)


class WithoutHuggingFace(torch.nn.Module):
    """What cna_lens asks of a model, as HookedTransformer has it."""

    cfg, tokenizer, hook_dict = type("Config", (), {"model_name": "tiny"})(), object(), {}

    def hooks(self):
        raise NotImplementedError


@pytest.mark.parametrize("run", [mmlu, lambda model: run_lm_eval(model, "arc_easy")])
def test_a_model_that_wraps_no_hugging_face_model_is_refused(run):
    with pytest.raises(ModelError, match="WithoutHuggingFace wraps none; load tiny as a Transf"):
        run(WithoutHuggingFace().eval())


def test_a_model_without_a_tokenizer_is_refused(folder):
    model = tiny.bridge("llama")
    model.tokenizer = None
    with pytest.raises(InputError, match="no tokenizer"):
        run_lm_eval(model, "choice", include_path=folder)


@pytest.mark.parametrize(
    ("tasks", "settings", "message"),
    [
        ("chioce", {}, "there is no task 'chioce' in .*; similar names: choice"),
        ([], {}, "tasks is empty"),
        ("choice", {"limit": 0}, "limit is 0, expected at least 1"),
        ({"choice": [0]}, {"limit": 2}, "no limit if tasks gives the examples"),
        ({"choice": []}, {}, r"the examples of choice are \[\], expected at least one index"),
        ({"choice": [1, 1]}, {}, r"are \[1, 1\], .* given once"),
        ({"choice": [-1]}, {}, r"are \[-1\], .* 0 or above"),
        ({"choice": [0, 3]}, {}, "choice has examples 0 to 2, but not 3"),
        ({"group": [0]}, {}, "group is a group; give the examples of each of its tasks"),
        ("choice", {"num_fewshot": -1}, "num_fewshot is -1"),
        ("none", {"num_fewshot": 2}, "num_fewshot is 2, but the file of none sets it to 0"),
        ("choice", {"seed": -1}, "seed is -1, expected 0 to 4294967295"),
        ("choice", {"batch_size": 0}, "batch_size is 0"),
        ("choice", {"chat": True}, "chat=True needs a chat template"),
        ("gone", {}, "cannot be loaded: FileNotFoundError"),
        ("code", {}, "code runs code that the model writes"),
    ],
)
def test_what_cannot_be_run_is_refused(llama, folder, tasks, settings, message):
    rows = harness_tasks.random_choices(2)
    harness_tasks.multiple_choice(folder, rows, name="none", num_fewshot=0)
    harness_tasks.multiple_choice(folder, rows, name="code", unsafe_code=True)
    harness_tasks.multiple_choice(folder, rows, name="gone")
    (folder / "gone.jsonl").unlink()
    (folder / "group.yaml").write_text("group: group\ntask: [choice]\n")
    with pytest.raises(InputError, match=message):
        run_lm_eval(llama, tasks, include_path=folder, **settings)
