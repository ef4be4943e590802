"""Answers past the bridge are those through it, and hooks see the same activations."""

import threading
from contextlib import nullcontext

import pytest
import runs
import tiny
import torch
from transformers import AutoModelForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import cna_lens
from cna_lens import Circuit, Neuron
from cna_lens.models.hooked_model import carries_hooks, hooks_of_their_own
from cna_lens.models.inside.projections import layout_of
from cna_lens.models.running import decoding
from cna_lens.models.trial import direct
from cna_lens.models.trial.direct import DirectPass, direct_pass
from cna_lens.models.trial.trial import tried

PROMPTS = [
    [5, 6, 7, 8, 9, 10, 11],
    [5, 6, 7, 8, 30],
    [5, 6, 7, 8, 31, 32, 33, 34, 35, 36, 37],
    [5, 6, 7, 8, 40, 41],
]
NEW = 12


@pytest.fixture
def fresh():
    return tiny.bridge("llama")


def circuit(model):
    return Circuit(tuple(Neuron(i % 2, i) for i in range(8)), (1.0,) * 8, layout_of(model))


def rolled(activation, hook):
    return activation.roll(1, -1)


def at(*names):
    return lambda model: model.hooks(fwd_hooks=[(name, rolled) for name in names])


def steered(**options):
    return lambda model: cna_lens.steer(model, circuit(model), **options)


STEERINGS = {
    "unsteered": lambda _: nullcontext(),
    "weights": steered(multiplier=3.0, via="weights"),
    "hooks": steered(multiplier=3.0, via="hooks"),
    **{
        positions: steered(multiplier=-40.0, positions=positions)
        for positions in ("prompt", "last_prompt", "from_last_prompt", "generated")
    },
    "residual stream": at("blocks.0.hook_resid_pre", "blocks.1.hook_resid_post"),
    "outputs": at("blocks.0.hook_attn_out", "blocks.1.hook_mlp_out"),
    "embedding": at("hook_embed"),
    "unembedding": at("unembed.hook_in"),
}


def answers(model, **options):
    return cna_lens.generate(model, PROMPTS, max_new_tokens=NEW, **options)


@pytest.fixture
def through_the_bridge(monkeypatch):
    """Answer without the direct pass."""

    def answered(model, **options):
        with monkeypatch.context() as patched:
            patched.setattr(decoding, "direct_pass", lambda _: None)
            return answers(model, **options)

    return answered


@pytest.fixture
def passes(monkeypatch):
    """The direct passes that were run."""
    run: list[DirectPass] = []
    plain = DirectPass.last_logits

    def noted(self, *args):
        run.append(self)
        return plain(self, *args)

    monkeypatch.setattr(DirectPass, "last_logits", noted)
    return run


@pytest.mark.parametrize("steering", STEERINGS)
@pytest.mark.parametrize("family", runs.every(tiny.FAMILIES, quick=("gpt2", "gemma3")))
def test_answers_are_those_through_the_bridge(models, family, steering, through_the_bridge):
    model = models[family]
    unsteered = answers(model)
    with STEERINGS[steering](model):
        assert direct_pass(model) is not None
        found = answers(model)
        assert found == through_the_bridge(model)
        assert found == answers(model, share_prefix=False)
    assert (found == unsteered) == (steering == "unsteered")


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_passes_are_run_without_the_bridge(models, family, passes, monkeypatch):
    model = models[family]
    before = model.original_model.config._attn_implementation
    answers(model)
    passes.clear()
    monkeypatch.setattr(decoding, "forward_with_cache", None)
    answers(model)
    assert len(passes) >= NEW
    (module,) = {each.module for each in passes}
    assert not any(
        type(part).__module__.startswith("transformer_lens") for part in module.modules()
    )
    assert module.config._attn_implementation == "sdpa"
    assert model.original_model.config._attn_implementation == before


@pytest.mark.parametrize(
    "name", ["blocks.1.mlp.hook_post", "blocks.0.hook_resid_post", "blocks.1.hook_attn_out"]
)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_hooks_see_the_activations_of_the_bridge(models, family, name, through_the_bridge):
    model, seen = models[family], []
    with model.hooks(fwd_hooks=[(name, lambda a, hook: seen.append(a.clone()))]):
        assert direct_pass(model) is not None
        answers(model)
        past, seen = seen, []
        through_the_bridge(model)
    assert len(past) == len(seen) >= NEW
    for found, expected in zip(past, seen, strict=True):
        torch.testing.assert_close(found[:, -1], expected[:, -1], rtol=1e-3, atol=1e-4)


def test_steering_that_begins_between_two_tokens_is_seen(llama, monkeypatch):
    def changing():
        texts = cna_lens.stream(llama, PROMPTS[0], max_new_tokens=NEW)
        found = [next(texts) for _ in range(3)]
        with cna_lens.steer(llama, circuit(llama), 5.0, via="hooks"):
            found += [next(texts) for _ in range(4)]
        return [*found, *texts]

    found = changing()
    assert found[-1] != answers(llama)[0]
    monkeypatch.setattr(decoding, "direct_pass", lambda _: None)
    assert found == changing()


@pytest.mark.parametrize("name", ["blocks.0.attn.hook_pattern", "blocks.1.attn.hook_attn_scores"])
def test_hooks_inside_attention_go_through_the_bridge(llama, name, passes):
    fired = []
    with llama.hooks(fwd_hooks=[(name, lambda a, hook: fired.append(a.shape))]):
        assert direct_pass(llama) is None
        passes.clear()
        answers(llama)
    assert len(fired) >= NEW
    assert not passes


def test_a_hook_on_a_module_of_the_bridge_goes_through_it(fresh, caplog):
    handle = fresh.blocks[0].mlp.register_forward_hook(lambda *_: None)
    with caplog.at_level("INFO"):
        assert direct_pass(fresh) is None
    assert "a hook is on a module" in caplog.text
    handle.remove()
    assert direct_pass(fresh) is not None


def test_a_hook_on_the_bridge_itself_changes_answers_and_ends(fresh, through_the_bridge):
    before = answers(fresh)
    handle = fresh.register_forward_hook(lambda _, args, logits: logits.flip(-1))
    assert direct_pass(fresh) is None
    hooked = answers(fresh)
    assert hooked == through_the_bridge(fresh) != before
    handle.remove()
    assert answers(fresh) == before


@pytest.mark.parametrize("module", ["transformer_lens_tools.steer", None])
def test_a_hook_of_a_module_with_a_librarys_name_in_front_or_without_one_counts(fresh, module):
    def hook(*_):
        return None

    hook.__module__ = module
    fresh.original_model.model.norm.register_forward_hook(hook)
    assert carries_hooks(fresh)


@pytest.mark.parametrize("method", ["forward", "hook_in"])
def test_a_method_that_was_replaced_on_the_bridge_counts(fresh, method, through_the_bridge):
    before = answers(fresh)
    block = fresh.blocks[0]
    if method == "forward":
        plain = block.forward
        vars(block)["forward"] = lambda *args, **kwargs: plain(*args, **kwargs).flip(-1)
    else:
        plain = block.hook_in.forward
        vars(block.hook_in)["forward"] = lambda x: plain(x).flip(-1)
    found = answers(fresh)
    assert found == through_the_bridge(fresh)
    assert found != before


def test_a_class_that_was_changed_after_the_trial_is_tried_again(fresh, monkeypatch):
    assert direct_pass(fresh) is not None
    mlp = type(fresh.blocks[0].mlp)
    plain = mlp.forward
    monkeypatch.setattr(mlp, "forward", lambda self, *args: plain(self, *args).flip(-1))
    assert direct_pass(fresh) is None
    monkeypatch.undo()
    assert direct_pass(fresh) is not None


def test_an_attention_that_computes_something_else_is_not_used(fresh, monkeypatch):
    def values_alone(module, query, key, value, attention_mask, **kwargs):
        heads = module.num_key_value_groups
        return value[:, :, -query.shape[2] :].repeat_interleave(heads, 1).transpose(1, 2), None

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "sdpa", values_alone)
    found = direct_pass(fresh)
    assert found.module.config._attn_implementation == "eager"
    assert not any("Bridge" in type(part).__name__ for part in found.module.modules())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_bridges_attention(dtype, through_the_bridge):
    model = tiny.bridge("llama", dtype=dtype)
    assert direct_pass(model).module.config._attn_implementation == "eager"
    assert answers(model) == through_the_bridge(model)


@pytest.mark.parametrize("weight", [0.0, torch.nan])
def test_logits_that_show_nothing_decide_nothing(fresh, weight):
    matrix = fresh.original_model.lm_head.weight
    kept = matrix.detach().clone()
    matrix.data.fill_(weight)
    assert direct_pass(fresh) is None
    matrix.data.copy_(kept)
    assert direct_pass(fresh) is not None


def test_each_set_of_hook_points_is_tried_once(fresh, monkeypatch):
    tries = []
    plain = direct._is_right
    monkeypatch.setattr(direct, "_is_right", lambda *args: tries.append(1) or plain(*args))
    for _ in range(3):
        answers(fresh)
        for multiplier in (0.0, 2.0):
            for via in ("hooks", "weights"):
                with cna_lens.steer(fresh, circuit(fresh), multiplier, via=via):
                    answers(fresh)
    assert len(tries) == 2


def test_the_trial_leaves_the_hooks_and_the_model_as_they_were(fresh):
    seen = []
    with fresh.hooks(fwd_hooks=[("blocks.0.mlp.hook_post", lambda a, hook: seen.append(a))]):
        before = [list(point.fwd_hooks) for point in fresh.hook_dict.values()]
        direct_pass(fresh)
        assert [list(point.fwd_hooks) for point in fresh.hook_dict.values()] == before
    assert not seen


def test_weights_that_change_after_the_trial_are_the_answers(fresh, through_the_bridge):
    before = answers(fresh)
    fresh.original_model.model.layers[0].mlp.down_proj.original_component.weight.data.mul_(-2)
    fresh.original_model.lm_head.weight.data = fresh.original_model.lm_head.weight.data.flip(0)
    assert answers(fresh) == through_the_bridge(fresh) != before


# Once a model was converted, the parts no longer share the memory of the fused matrices.
@pytest.mark.parametrize("family", ["gpt2", "phi3"])
def test_split_weights_that_change_apart_from_the_fused_ones_are_the_answers(
    family, through_the_bridge
):
    model = tiny.bridge(family).to(torch.float64)
    before = answers(model)
    assert direct_pass(model) is not None
    attention = model.blocks[0].attn
    with torch.no_grad():
        for part in (attention.q, attention.v):
            part.original_component.weight.mul_(-5)
    assert answers(model) == through_the_bridge(model) != before


def test_a_model_in_compatibility_mode_answers_as_through_the_bridge(fresh, through_the_bridge):
    assert direct_pass(fresh) is not None
    fresh.enable_compatibility_mode()
    assert answers(fresh) == through_the_bridge(fresh)


def test_a_model_without_a_cache_has_no_direct_pass():
    model = tiny.untried_bridge("llama")
    for block in model.blocks:
        vars(block.attn)["_update_kv_cache"] = lambda k, v, **_: (k, v)
    with pytest.warns(cna_lens.CnaLensWarning):
        assert tried(model).cache is None
    assert direct_pass(model) is None


ANSWER = {"max_new_tokens": 6, "chat": False, "share_prefix": False}


def test_another_precision_is_tried_anew():
    model = tiny.bridge("llama")
    assert direct_pass(model).module.config._attn_implementation == "sdpa"
    model.to(torch.bfloat16)
    assert direct_pass(model).module.config._attn_implementation == "eager"


def test_a_rotary_embedding_that_grows_leaves_the_bridge_alone():
    config = tiny._config("llama")
    config.max_position_embeddings = 16
    config.rope_parameters = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    config.architectures = ["LlamaForCausalLM"]
    torch.manual_seed(0)
    hf = AutoModelForCausalLM.from_config(config).eval()
    tiny.make_weights_matter(hf)
    model = tiny.boot(hf)
    model.cfg.n_ctx = 256
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        before = model(ids)
        assert direct_pass(model) is not None
        cna_lens.generate(model, [[5, 6, 7, 8]], **ANSWER | {"max_new_tokens": 40})
        torch.testing.assert_close(model(ids), before, rtol=0, atol=0)


class Halved:
    """A forward pass of a module, halved, as an object that can be called."""

    def __init__(self, forward):
        self.forward = forward

    def __call__(self, *args, **kwargs):
        return self.forward(*args, **kwargs) / 2


def test_a_method_replaced_by_any_callable_is_noticed():
    model = tiny.bridge("llama")
    mlp = model.blocks[0].mlp
    vars(mlp)["forward"] = Halved(mlp.forward)
    assert direct_pass(model) is None


def test_a_hook_before_a_hook_point_is_noticed(through_the_bridge):
    model = tiny.bridge("llama")
    point = model.hook_dict["blocks.0.hook_resid_pre"]
    handle = point.register_forward_pre_hook(lambda _, args: (args[0] * 3,))
    steered = answers(model)
    assert steered == through_the_bridge(model)
    handle.remove()
    assert steered != answers(model)


def test_hooks_for_all_modules_keep_the_bridge():
    model = tiny.bridge("llama")
    mlp = model.blocks[0].mlp
    seen = []

    def note(module, *_):
        if module is mlp:
            seen.append(module)

    handle = torch.nn.modules.module.register_module_forward_hook(note)
    try:
        cna_lens.generate(model, [[5, 6, 7]], **ANSWER | {"max_new_tokens": 3})
    finally:
        handle.remove()
    assert len(seen) == 3


def test_threads_that_answer_at_once_leave_no_hook_behind():
    def look(_, hook):
        return None

    for _ in range(3):
        model = tiny.untried_bridge("llama")
        expected = cna_lens.generate(tiny.bridge("llama"), [[5, 6, 7]], **ANSWER)
        points = [f"blocks.{layer}.mlp.hook_post" for layer in range(2)]
        found = []

        def answer(model=model, points=points, found=found):
            with hooks_of_their_own(model, [(name, look) for name in points]):
                found.append(cna_lens.generate(model, [[5, 6, 7]], **ANSWER))

        threads = [threading.Thread(target=answer) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [expected] * 3
        assert not carries_hooks(model)
        assert cna_lens.generate(model, [[5, 6, 7]], **ANSWER) == expected
