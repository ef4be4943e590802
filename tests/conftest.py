import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from jaxtyping import config, install_import_hook

# Types and shapes are checked at run time, unless JAXTYPING_DISABLE says that they are not.
if not config.jaxtyping_disable:
    install_import_hook("cna_lens", "beartype.beartype")

# At the end of the path: cna_lens must be the installed one, experiments are found here.
sys.path.append(str(Path(__file__).parents[1]))
import tiny
from canary_models import CANARIES, refusing

import cna_lens
from cna_lens.models import HookedModel

# A busy machine is no error of what is tested.
settings.register_profile("without deadlines", settings(), deadline=None)
settings.load_profile("without deadlines")

# Load every public name: tests patch modules by their place in the package, which exists only once
# something has asked for it.
for name in cna_lens.__all__:
    getattr(cna_lens, name)

# One thread: several only slow each other down on a tiny model, or if workers share a machine.
N_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
PROCESSORS = max(1, torch.get_num_threads() // N_WORKERS)
torch.set_num_threads(1)

if sys.version_info < (3, 12):

    class LooksUpNothing(type(HookedModel)):
        """Decide whether something is a model without reading its values, as Python 3.12 does.

        A bridge rebuilds its `hook_dict` at each access, and each checked annotation accesses it.
        """

        def __instancecheck__(cls, instance):
            members = ("cfg", "tokenizer", "hook_dict", "hooks", "forward")
            own = getattr(instance, "__dict__", {})
            kinds = [vars(kind) for kind in type(instance).__mro__]
            return all(name in own or any(name in kind for kind in kinds) for name in members)

    HookedModel.__class__ = LooksUpNothing

# TransformerLens 4 has no HookedTransformer, and docs/models.md is about TransformerLens 4.
collect_ignore = [
    "experiments/test_models_page.py" if find_spec("transformer_lens.HookedTransformer") else "tl3"
]
# Only the environment of TransformerLens 3.9 has the extra that brings SAELens.
if find_spec("sae_lens") is None:
    collect_ignore.append("tl3/test_saelens.py")
# Inspect has an environment of its own, since it asks for another version of fsspec.
if find_spec("inspect_ai") is None:
    collect_ignore.append("cli/test_inspect.py")
# OpenSSF's model_signing has an environment of its own, whose command `make test-signing` names.
if "MODEL_SIGNING" not in os.environ:
    collect_ignore.append("audit/test_model_signing.py")
# Before TransformerLens 3.9 there are no native bridges, which compiled programs need.
if find_spec("transformer_lens.utilities.tracr") is None:
    collect_ignore.append("models/test_compiled.py")
# No test in these files runs a model, so they do not depend on the version of TransformerLens.
RUN_NO_MODEL = {
    f"test_{name}.py"
    for name in (
        *("audit_checks", "batching", "betting", "circuit", "circuit_contents", "compare_on_demo"),
        *("data_sets", "docs", "expert_neurons", "figures", "journal", "judge", "judge_cache"),
        *("judge_rubric", "localization", "means", "moments", "packing", "pair_training_set"),
        *("prompt_files", "prompt_sets", "quality", "random_control", "ranking", "refusal"),
        *("refusal_floor", "refusal_reasoning", "rendering", "stability"),
        *("statistics", "study_reports", "study_running", "study_settings", "top", "transfer"),
        "universal_filter",
    )
}
# TransformerLens 3 has no sparse probe; a test in tl3 checks the error.
if find_spec("transformer_lens.tools.analysis.sparse_probing") is None:
    # The tests on Ray do not depend on the version of TransformerLens either.
    collect_ignore += ["discovery/test_probe.py", "experiments/test_study_on_ray.py"]
    collect_ignore += ["models/test_cluster.py", "models/test_lost_machines.py"]
    collect_ignore.append("cli/test_bench_on_ray.py")
    collect_ignore.append("experiments/test_compiled_programs.py")
    collect_ignore_glob = [f"*/{name}" for name in RUN_NO_MODEL]


# These files share the results of `families`, so one worker should run them all. They come first,
# because xdist gives the first tests to one worker.
SHARE_FAMILIES = ("test_families.py", "test_mixtures.py", "test_models_page.py")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Put the files that share families first, and reject a file of `RUN_NO_MODEL` with a model."""
    items.sort(key=lambda item: item.path.name not in SHARE_FAMILIES)
    models = {"models", "chat_model", "guarded", "_demo_model", "folder"}
    for item in items:
        if item.path.name in RUN_NO_MODEL and (
            models & set(item.fixturenames) or hasattr(item.module, "tiny")
        ):
            raise pytest.UsageError(f"{item.nodeid} runs a model: take its file from RUN_NO_MODEL")


# The tests of the method itself, on tiny models: `make test-core` runs them, and versions are
# judged by them.
CORE = {
    f"test_{name}.py"
    for name in (
        "answer_log_probs",
        "attribution_patching",
        "batching",
        "caa",
        "change_from_base",
        "chats",
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
        "learned_mask",
        "magnitude_anchor",
        "memory_budgets",
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
        "reasoning",
        "relp",
        "requirements",
        "sampling",
        "squared_attribution",
        "statistics",
        "steering",
        "steering_costs",
        "steering_methods",
        "steering_refusals",
        "steering_restores",
        "steering_values",
        "token_activations",
        "token_texts",
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
    """With the core alone, skip other files: they may import packages that only an extra brings."""
    is_test = collection_path.name.startswith("test_") and collection_path.parent.name != "tl3"
    only_core = config.option.markexpr in ("core", "core and not long") and is_test
    return True if only_core and collection_path.name not in CORE else None


@pytest.fixture(scope="session")
def models():
    """One bridge for each family; tests must leave them unchanged."""
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
    """The circuit of `guarded`, found on the canaries."""
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
    """SmolLM2-135M-Instruct, on all processors of this worker."""
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
    """Turn off the tests' run-time type checks, as for users, to test wrong arguments."""
    import jaxtyping

    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture
def data_sets_offline(tmp_path):
    """Let `datasets` read local files only, and cache them in a temporary folder."""
    import harness_tasks

    with harness_tasks.data_sets_offline(tmp_path / "data sets"):
        yield


@pytest.fixture
def judge_server(monkeypatch):
    """An endpoint that follows a script; the environment names no other endpoint."""
    from judge_server import JudgeServer

    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with JudgeServer() as server:
        yield server
