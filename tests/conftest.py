import os
import sys
from importlib.util import find_spec
from inspect import getattr_static
from pathlib import Path

import pytest
import torch

# At the end: cna_lens is the installed one, experiments lie beside the tests.
sys.path.append(str(Path(__file__).parents[1]))
import tiny
from canary_models import CANARIES, refusing

import cna_lens
from cna_lens.models import HookedModel

# Tests patch modules by their place in the package, which is there once something has asked for it.
for name in cna_lens.__all__:
    getattr(cna_lens, name)

# Threads only get into each other's way where a model is tiny, and where workers share a machine.
N_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
PROCESSORS = max(1, torch.get_num_threads() // N_WORKERS)
torch.set_num_threads(1)

if sys.version_info < (3, 12):

    class LooksUpNothing(type(HookedModel)):
        """As since Python 3.12: whether something is a model is told without a look at its values.

        A bridge makes its `hook_dict` anew at each look, and each annotation that is checked looks.
        """

        def __instancecheck__(cls, instance):
            members = ("cfg", "tokenizer", "hook_dict", "hooks", "forward")
            return all(getattr_static(instance, name, cls) is not cls for name in members)

    HookedModel.__class__ = LooksUpNothing

# TransformerLens 4 has no HookedTransformer.
# docs/models.md is about TransformerLens 4.
collect_ignore = [
    "experiments/test_models_page.py" if find_spec("transformer_lens.HookedTransformer") else "tl3"
]
# SAELens comes with an extra that the environment of TransformerLens 3.9 has.
if find_spec("sae_lens") is None:
    collect_ignore.append("tl3/test_saelens.py")
# No test in these files runs a model, so that they depend on no version of TransformerLens.
RUN_NO_MODEL = {
    f"test_{name}.py"
    for name in (
        *("audit_checks", "batching", "circuit", "circuit_contents", "compare_on_demo"),
        *("data_sets", "docs", "expert_neurons", "figures", "journal", "judge", "judge_cache"),
        *("judge_rubric", "localization", "means", "moments", "packing", "pair_training_set"),
        *("prompt_files", "prompt_sets", "quality", "random_control", "ranking", "refusal"),
        *("refusal_floor", "refusal_reasoning", "rendering", "stability"),
        *("statistics", "study_reports", "study_running", "study_settings", "top", "transfer"),
        "universal_filter",
    )
}
# TransformerLens 3 has no sparse probe, for which tl3 tests the error.
if find_spec("transformer_lens.tools.analysis.sparse_probing") is None:
    # What runs on Ray depends on no version of TransformerLens either.
    collect_ignore += ["discovery/test_probe.py", "experiments/test_study_on_ray.py"]
    collect_ignore_glob = [f"*/{name}" for name in RUN_NO_MODEL]


# They share what `families` finds, and so one worker: xdist gives the first tests to one.
SHARE_FAMILIES = ("test_families.py", "test_mixtures.py", "test_models_page.py")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Hold `RUN_NO_MODEL` to what it says, and bring together what shares families."""
    items.sort(key=lambda item: item.path.name not in SHARE_FAMILIES)
    models = {"models", "chat_model", "guarded", "_demo_model", "folder"}
    for item in items:
        if item.path.name in RUN_NO_MODEL and (
            models & set(item.fixturenames) or hasattr(item.module, "tiny")
        ):
            raise pytest.UsageError(f"{item.nodeid} runs a model: take its file from RUN_NO_MODEL")


# The method itself, on tiny models: what `make test-core` runs, and with which versions are judged.
CORE = {
    f"test_{name}.py"
    for name in (
        "answer_log_probs",
        "attribution_patching",
        "batching",
        "caa",
        "circuit",
        "circuit_contents",
        "collection",
        "collection_failures",
        "collection_hooks",
        "directional_ablation",
        "evaluation",
        "expert_neurons",
        "experts",
        "experts_steering",
        "families",
        "find_circuit",
        "find_circuit_refusals",
        "find_circuit_stages",
        "generation",
        "generation_ends",
        "keep_all",
        "magnitude_anchor",
        "mixtures",
        "moments",
        "necessity",
        "packed_pass",
        "packing",
        "positions",
        "positions_contexts",
        "predictions",
        "promoted_tokens",
        "prompt_files",
        "prompt_sets",
        "prompts",
        "random_control",
        "ranking",
        "rankings",
        "relp",
        "requirements",
        "sampling",
        "statistics",
        "steering",
        "steering_costs",
        "steering_methods",
        "steering_refusals",
        "steering_restores",
        "steering_values",
        "token_activations",
        "top",
        "trial",
        "universal",
        "universal_filter",
        "weights",
    )
}


def pytest_itemcollected(item):
    of_the_core = item.path.name in CORE or item.path.parent.name == "tl3"
    if of_the_core and not item.get_closest_marker("real_model"):
        item.add_marker("core")


def pytest_ignore_collect(collection_path, config):
    """The other files may import what only an extra brings."""
    is_test = collection_path.name.startswith("test_") and collection_path.parent.name != "tl3"
    only_core = config.option.markexpr == "core" and is_test
    return True if only_core and collection_path.name not in CORE else None


@pytest.fixture(scope="session")
def models():
    """One bridge for each family; tests leave them as they were."""
    return {family: tiny.bridge(family) for family in tiny.FAMILIES}


@pytest.fixture(params=tiny.FAMILIES)
def model(request, models):
    return models[request.param]


@pytest.fixture(scope="session")
def llama(models):
    return models["llama"]


@pytest.fixture(scope="session")
def chat_model():
    return tiny.bridge("llama", chat=True)


@pytest.fixture(scope="session")
def guarded():
    """A tiny model that opens a refusal on harmful canaries."""
    return refusing()


@pytest.fixture(scope="session")
def guarded_circuit(guarded):
    """Its circuit, as found on the canaries."""
    return cna_lens.find_circuit(
        guarded, CANARIES.harmful, CANARIES.benign, k=20, universal=None, progress=False
    )


@pytest.fixture(scope="session")
def guarded_fingerprint(guarded, guarded_circuit):
    return cna_lens.audit.fingerprint(guarded, guarded_circuit, CANARIES, progress=False)


@pytest.fixture(scope="session")
def _demo_model():
    return cna_lens.load_model("demo", device="cpu")


@pytest.fixture
def demo(_demo_model):
    """SmolLM2-135M-Instruct, on all processors that are this worker's."""
    torch.set_num_threads(PROCESSORS)
    yield _demo_model
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A checkpoint in the Hub's layout."""
    path = tmp_path_factory.mktemp("models") / "tiny-checkpoint"
    tiny.hugging_face("llama").save_pretrained(path)
    tiny.tokenizer(chat=True).save_pretrained(path)
    return path


@pytest.fixture
def without_type_checks():
    """Users run without the tests' run-time type checks; so do tests of wrong arguments."""
    import jaxtyping

    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def data_sets_offline(tmp_path):
    """Let `datasets` read local files only, and cache them in a temporary folder."""
    import harness_tasks

    with harness_tasks.data_sets_offline(tmp_path / "data sets"):
        yield


@pytest.fixture
def judge_server(monkeypatch):
    """An endpoint that follows a script, and an environment that names no other."""
    from judge_server import JudgeServer

    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with JudgeServer() as server:
        yield server
