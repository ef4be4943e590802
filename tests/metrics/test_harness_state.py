import logging
import os
import random
import sys

import harness_tasks
import numpy as np
import pytest
import reference
import tiny
import torch

from cna_lens import InputError
from cna_lens.metrics import run_lm_eval

pytestmark = pytest.mark.usefixtures("data_sets_offline")
IDS = torch.tensor([[1, 5, 9, 31, 30]])
ROWS = harness_tasks.random_choices(4)


@pytest.fixture
def folder(tmp_path):
    folder = harness_tasks.multiple_choice(tmp_path / "tasks", ROWS)
    return harness_tasks.exact_match(folder, [("w5 w6", "w7"), ("w9 w31 w4", "w4")])


def logits(model):
    with torch.no_grad():
        return model(IDS).clone(), model.original_model(IDS).logits.clone()


def state(model):
    """Everything that a run might change, except the weights."""
    tokenizer, logger = model.tokenizer, logging.getLogger("lm_eval")
    original = model.original_model
    return {
        "python": random.getstate(),
        "numpy": str(np.random.get_state()),
        "torch": torch.get_rng_state().tolist(),
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "environment": dict(os.environ),
        "logging": (logger.level, logger.propagate, list(logger.handlers), logging.root.level),
        "tokenizer": (
            tokenizer.padding_side,
            tokenizer.truncation_side,
            tokenizer.special_tokens_map,
            len(tokenizer),
            tokenizer("w5 w6")["input_ids"],
        ),
        "config": original.config.to_dict(),
        "generation": original.generation_config.to_dict(),
        "attributes": sorted(vars(original)),
        "modes": [module.training for module in original.modules()],
        "hooks": str(reference.hooks(model)),
    }


# The run-time type checks draw random numbers.
@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("compatible", [False, True], ids=["raw", "compatibility mode"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_model_and_process_are_restored(folder, family, compatible):
    model = tiny.bridge(family)
    # lm-eval gives a padding token to tokenizers that have none.
    model.tokenizer.pad_token = None
    if compatible:
        model.enable_compatibility_mode()
    outputs, weights, before = logits(model), reference.weights(model), state(model)
    run_lm_eval(model, ["choice", "exact"], include_path=folder, seed=5)
    assert state(model) == before
    assert reference.same_bits(weights, reference.weights(model))
    for old, new in zip(outputs, logits(model), strict=True):
        assert torch.equal(old, new)


def test_compatibility_mode_does_not_change_the_result(folder):
    raw, folded = tiny.bridge("gpt2"), tiny.bridge("gpt2")
    folded.enable_compatibility_mode()
    folded.tokenizer = raw.tokenizer
    assert run_lm_eval(folded, "choice", include_path=folder) == run_lm_eval(
        raw, "choice", include_path=folder
    )


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_run_restores_model_and_process(llama, folder, error):
    def fail(activation, hook):
        raise error

    before = state(llama)
    with (
        pytest.raises(error),
        llama.hooks(fwd_hooks=[("blocks.1.mlp.hook_post", fail)]),
    ):
        run_lm_eval(llama, "choice", include_path=folder)
    assert state(llama) == before


def test_a_run_does_not_depend_on_the_random_state_before_it(llama, folder):
    results = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        results.append(run_lm_eval(llama, "choice", include_path=folder, num_fewshot=2))
    assert results[0] == results[1]


@pytest.mark.long
def test_progress_is_shown_only_on_request(llama, folder, capfd):
    run_lm_eval(llama, ["choice", "exact"], include_path=folder, batch_size="auto")
    assert capfd.readouterr() == ("", "")
    run_lm_eval(llama, "choice", include_path=folder, progress=True)
    assert "100%" in capfd.readouterr().err


def test_a_rejected_run_prints_nothing(llama, folder, capfd):
    with pytest.raises(InputError):
        run_lm_eval(llama, {"choice": [99]}, include_path=folder)
    assert capfd.readouterr() == ("", "")


def test_the_first_import_of_lm_eval_leaves_no_environment_variable(llama, folder, monkeypatch):
    run_lm_eval(llama, "choice", include_path=folder)
    for name in [name for name in os.environ if name.startswith("HF_XET_")]:
        monkeypatch.delenv(name)
    monkeypatch.delitem(sys.modules, "lm_eval")
    before = dict(os.environ)
    run_lm_eval(llama, "choice", include_path=folder)
    assert "lm_eval" in sys.modules
    assert dict(os.environ) == before
