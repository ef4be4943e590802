"""The trial judges a model by its behaviour: it refuses broken models or warns about them."""

import warnings
from dataclasses import dataclass
from functools import partial

import families
import pytest
import tiny
import torch

import cna_lens
from cna_lens import CnaLensWarning, ModelError, audit
from cna_lens.models.trial.trial import tried
from experiments.families.tiny_models import tiny_model

PROMPTS = [[1, 5, 6, 7, 8, 9, 20], [1, 5, 6, 7, 8, 9, 21, 22], [1, 5, 6, 7, 8, 9, 23, 24, 25]]


@pytest.fixture
def broken():
    """A separate bridge for a test to break."""
    return tiny.untried_bridge("llama")


def answers(model):
    return cna_lens.generate(model, PROMPTS, max_new_tokens=6)


def attentions(model):
    return [block.attn for block in model.blocks]


def replace(component, **methods):
    """Replace methods of the component alone; a bridge's assignment would also reach its module."""
    vars(component).update(methods)


def replace_cache_update(model, update):
    for attention in attentions(model):
        replace(attention, _update_kv_cache=update)


def keep_nothing(k, v, **kwargs):
    return k, v


def test_an_empty_cache_gives_one_warning_and_changes_no_answer(llama, broken):
    replace_cache_update(broken, keep_nothing)
    with pytest.warns(CnaLensWarning) as said:
        found = answers(broken)
    assert found == answers(llama)
    assert answers(broken) == found
    (message,) = [str(each.message) for each in said]
    assert message.startswith("tiny-llama: the cache of LlamaForCausalLM holds 0 tokens")
    assert "about 20 times slower" in message
    assert "docs/compatibility.md" in message
    assert "transformers " in message


@pytest.mark.parametrize("weight", [0.0, torch.nan])
def test_an_empty_cache_is_seen_where_logits_show_nothing(broken, weight):
    broken.original_model.lm_head.weight.data[:] = weight
    replace_cache_update(broken, keep_nothing)
    with pytest.warns(CnaLensWarning, match="holds 0 tokens .* about 20 times slower"):
        assert tried(broken).cache is None


def test_a_cache_that_changes_the_logits_is_not_used(llama, broken):
    for attention in attentions(broken):
        update = attention._update_kv_cache

        def louder(k, v, update=update, **kwargs):
            keys, values = update(k, v, **kwargs)
            # Scales the cached keys, not the new ones.
            return torch.cat([keys[..., : -k.shape[-2], :] * 1.5, k], dim=-2), values

        replace(attention, _update_kv_cache=louder)
    with pytest.warns(
        CnaLensWarning, match="differently with its cache than without|holds 0 tokens"
    ):
        found = answers(broken)
    assert found == answers(llama)


def test_a_wrongly_scaled_attention_is_refused_with_its_layer(broken):
    attention = attentions(broken)[1]
    forward = attention.forward

    def scaled(*args, **kwargs):
        output, *others = forward(*args, **kwargs)
        return 1.1 * output, *others

    replace(attention, forward=scaled)
    with pytest.raises(ModelError, match=r"does not compute what .* differs from layer 1 on"):
        cna_lens.collect(broken, PROMPTS)


def test_logits_that_differ_after_the_last_layer_are_refused(broken):
    forward = broken.unembed.forward
    replace(broken.unembed, forward=lambda *args, **kwargs: forward(*args, **kwargs).flip(-1))
    with pytest.raises(ModelError, match="it differs after the last layer"):
        answers(broken)


def test_a_hook_point_of_the_right_width_at_the_wrong_place_is_refused(monkeypatch):
    from transformer_lens.model_bridge.generalized_components import GatedMLPBridge

    right = tiny.untried_bridge("llama", d_mlp=16)
    assert cna_lens.collect(right, PROMPTS).layout.widths == (16, 16)
    monkeypatch.setitem(GatedMLPBridge.hook_aliases, "hook_post", "hook_in")
    wrong = tiny.untried_bridge("llama", d_mlp=16)
    assert wrong.hook_dict["blocks.0.mlp.hook_post"] is wrong.blocks[0].mlp.hook_in
    with pytest.raises(ModelError, match=r"blocks\.0\.mlp\.hook_post .* not the input of layer 0"):
        cna_lens.collect(wrong, PROMPTS)


# The bridge of TransformerLens 3 keeps no cache of MPT at all.
if families.TRANSFORMER_LENS_4:

    def test_no_prefix_is_shared_where_padding_changes_a_prompt():
        family = next(family for family in families.RUNNABLE if family.name == "MPT")
        with pytest.warns(CnaLensWarning, match="padding follows a shared prefix.*about twice"):
            trial = tried(tiny_model(family).model)
        assert trial.no_cache is None


class ByTheNewName(torch.nn.Module):
    """An attention that takes the cache as `cache`, a name that the bridge does not read."""

    def __init__(self, attention):
        super().__init__()
        self.attention = attention

    def forward(self, *args, past_key_values=None, cache=None, **kwargs):
        return self.attention(*args, cache=past_key_values if cache is None else cache, **kwargs)


def rename_the_cache(model):
    """Rename the cache as Transformers 5.24 did, with any version of the libraries."""
    forward = model.original_model.forward
    keyword = tried(tiny.untried_bridge("llama")).cache

    def by_the_new_name(*args, cache=None, past_key_values=None, **kwargs):
        if past_key_values is not None:
            warnings.warn("`past_key_values` is deprecated", FutureWarning, stacklevel=2)
        if cache is not None:
            kwargs[keyword] = cache
        return forward(*args, **kwargs)

    model.original_model.forward = by_the_new_name
    for layer in model.original_model.model.layers:
        layer.original_component.self_attn = ByTheNewName(layer.original_component.self_attn)


def test_a_cache_with_another_name_is_translated(llama, broken):
    rename_the_cache(broken)
    trial = tried(broken)
    assert (trial.cache, trial.no_cache, trial.no_sharing) == ("cache", None, None)
    assert answers(broken) == answers(llama)
    calls = []
    broken.original_model.model.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    answers(broken)
    assert all(positions == 1 for _, positions in calls[2:]), calls


def test_the_translation_does_not_count_as_a_foreign_hook(broken):
    rename_the_cache(broken)
    tried(broken)
    assert all(attention._forward_pre_hooks for attention in attentions(broken))
    # The test's own.
    assert {found.kind for found in audit.hooks(broken)} == {"replaced method"}


def test_the_translation_stays_beside_a_users_hook(llama, broken):
    rename_the_cache(broken)
    for attention in attentions(broken):
        attention.register_forward_pre_hook(lambda *_: None)
    assert tried(broken).cache == "cache"
    assert answers(broken) == answers(llama)


def test_no_translation_stays_where_no_cache_works(broken):
    rename_the_cache(broken)
    replace_cache_update(broken, keep_nothing)
    before = [len(attention._forward_pre_hooks) for attention in attentions(broken)]
    with pytest.warns(CnaLensWarning, match="holds 0 tokens"):
        tried(broken)
    assert [len(attention._forward_pre_hooks) for attention in attentions(broken)] == before


def test_hooks_are_off_during_the_trial_and_stay_in_their_order(broken):
    calls = []

    def note(name, value, hook):
        calls.append(name)
        return 2 * value

    point = broken.hook_dict["blocks.0.mlp.hook_post"]
    for name in ("first", "second"):
        point.add_hook(partial(note, name))
    handle = attentions(broken)[0].register_forward_hook(lambda *_: calls.append("torch"))
    assert tried(broken).no_sharing is None
    assert calls == []
    broken(torch.tensor([[1, 5, 6]]))
    assert calls == ["torch", "first", "second"]
    broken.reset_hooks()
    handle.remove()
    broken(torch.tensor([[1, 5, 6]]))
    assert calls == ["torch", "first", "second"]


@pytest.mark.parametrize("error", [TypeError, ValueError])
def test_a_model_that_keeps_every_logit_gives_the_same_answers(llama, broken, error):
    assert tried(llama).keeps_logits
    forward = broken.original_model.forward

    def refuses(*args, **kwargs):
        if "logits_to_keep" in kwargs:
            raise error("logits_to_keep is not supported")
        return forward(*args, **kwargs)

    broken.original_model.forward = refuses
    assert not tried(broken).keeps_logits
    assert answers(broken) == answers(llama)


@dataclass
class Counts:
    """A hook that cannot be hashed, since it can be compared."""

    calls: int = 0

    def __call__(self, *_):
        self.calls += 1


def test_a_hook_that_cannot_be_hashed_is_back_after_the_trial(broken):
    hook = Counts()
    attentions(broken)[0].register_forward_hook(hook)
    tried(broken)
    assert hook.calls == 0
    broken(torch.tensor([[1, 5, 6]]))
    assert hook.calls == 1


def test_a_model_is_tried_once(broken):
    passes = []
    first = tried(broken)
    broken.original_model.register_forward_hook(lambda *_: passes.append(1))
    assert tried(broken) is first
    assert passes == []


def test_mixed_precision_around_the_first_use_gives_no_warning(broken):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert tried(broken).no_sharing is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_no_precision_gives_a_warning(family, dtype):
    assert tried(tiny.untried_bridge(family, dtype=dtype)).no_sharing is None


def test_weights_that_are_not_numbers_raise_by_their_activations(broken):
    broken.original_model.model.layers[0].mlp.up_proj.weight.data[:] = torch.nan
    with pytest.raises(cna_lens.ActivationError, match="layer 0, 1"):
        cna_lens.collect(broken, PROMPTS)


def test_loading_refuses_a_bridge_that_disagrees_with_its_model(folder, monkeypatch):
    from transformer_lens.model_bridge.generalized_components import GatedMLPBridge

    forward = GatedMLPBridge.forward
    monkeypatch.setattr(
        GatedMLPBridge, "forward", lambda self, *args, **kw: 1.1 * forward(self, *args, **kw)
    )
    with pytest.raises(ModelError, match=r"differs from layer 0 on; docs/compatibility\.md"):
        cna_lens.load_model(folder, device="cpu")


def test_a_model_that_cannot_run_alone_gives_a_warning(broken):
    broken.original_model.forward = partial(_only_through, broken, broken.original_model.forward)
    with pytest.warns(CnaLensWarning, match=r"cannot be compared .*\(ValueError: not alone\)"):
        assert tried(broken).no_sharing is None


def _only_through(bridge, forward, *args, **kwargs):
    if not kwargs.pop("return_dict", False) and "attention_mask" not in kwargs:
        raise ValueError("not alone")
    return forward(*args, **kwargs)


def test_a_family_that_transformer_lens_cannot_run_is_refused_by_name(broken):
    replace(attentions(broken)[0], forward=lambda *args, **kwargs: kwargs["embed_positions"])
    with pytest.raises(ModelError, match=r"cannot run tiny-llama with the versions .*KeyError"):
        answers(broken)


def test_rows_leave_a_batch_of_a_hybrid_whose_cache_cannot_drop_them():
    family = next(family for family in families.RUNNABLE if family.name == "LFM2")
    model = tiny_model(family).model
    prompts = [[9, 14, 30, word] for word in range(3, 60, 4)]
    with pytest.warns(CnaLensWarning, match="cannot drop a finished answer"):
        first = cna_lens.generate(model, prompts, max_new_tokens=1)
    # The first token of one row ends some answers.
    model.tokenizer.eos_token_id = model.tokenizer.convert_tokens_to_ids(first[0])
    together = cna_lens.generate(model, prompts, max_new_tokens=6)
    assert together == [
        cna_lens.generate(model, [prompt], max_new_tokens=6)[0] for prompt in prompts
    ]
    assert {len(answer.split()) for answer in together} >= {0, 6}


def test_a_down_projection_that_is_not_called_gives_a_warning(llama, broken):
    out = broken.blocks[1].mlp.out
    replace(out, forward=lambda x: torch.nn.functional.linear(out.hook_in(x), out.weight))
    with pytest.warns(CnaLensWarning, match=r"blocks\.1\.mlp\.hook_post .* which is not called"):
        found = answers(broken)
    assert found == answers(llama)


def test_lack_of_memory_is_not_taken_for_lack_of_a_cache(broken):
    replace_cache_update(broken, run_out)
    with pytest.raises(torch.OutOfMemoryError):
        tried(broken)


def run_out(k, v, **kwargs):
    if kwargs.get("past_key_values") is not None or kwargs.get("cache") is not None:
        raise torch.OutOfMemoryError
    return k, v
