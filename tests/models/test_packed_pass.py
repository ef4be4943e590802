"""Prompts packed in rows give the same as alone, or run alone."""

from functools import partial

import pytest
import reference
import strategies
import tiny
import torch
from hypothesis import given, settings, strategies as st
from transformers import AutoModelForCausalLM, BloomConfig, GPTNeoConfig, Lfm2Config, OPTConfig

import cna_lens
from cna_lens.discovery import Reader
from cna_lens.models import SharedPrefix, shared_prefix_length
from cna_lens.models.running import memory, packing
from cna_lens.models.running.packing import cannot_pack

POST = "blocks.{}.mlp.hook_post"
TEMPLATE = [30, 31, 32, 33, 34]
HOW = [[*TEMPLATE, 5, 6, 7, *rest] for rest in ([8], [9, 10], [9, 11], [9, 11, 12], [13, 14])]
WRITE = [[*TEMPLATE, 15, *rest] for rest in ([16, 17], [16, 18], [19])]
PROMPTS = [HOW[0], WRITE[0], HOW[1], HOW[2], WRITE[1], HOW[3], WRITE[2], HOW[4]]
PACKING = ("llama", "qwen2", "gpt2", "phi3")


@pytest.fixture(autouse=True)
def try_it_always(monkeypatch):
    """Try packing even for a few prompts, which would not be worth the trial."""
    monkeypatch.setattr(packing, "WORTH_TRYING", 10**6)


@pytest.fixture
def tokens_run(monkeypatch):
    """The shape of every forward pass after the prefix, the trial's first."""
    shapes = []
    trunk = packing.forward_trunk

    def counted(model, ids, *args):
        shapes.append(tuple(ids.shape))
        return trunk(model, ids, *args)

    monkeypatch.setattr(packing, "forward_trunk", counted)
    return shapes


def boot(config, architecture):
    config.architectures = [architecture]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hf = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    tiny.make_weights_matter(hf)
    return tiny.boot(hf)


def wide_gemma3():
    config = tiny._config("gemma3")
    config.sliding_window = 128
    return boot(config, "Gemma3ForCausalLM")


@pytest.fixture(scope="module")
def models_and_wide(models):
    """A window that hides most of a prompt, and one that hides nothing."""
    return models | {"gemma3 wide": wide_gemma3()}


CIRCUIT = cna_lens.Circuit((cna_lens.Neuron(0, 2),), (2.0,), cna_lens.Layout((tiny.WIDTH,) * 2))


def assert_same_statistics(found, expected):
    scale = expected.mean.abs().amax()
    assert found.count == expected.count
    assert (found.mean - expected.mean).abs().max() < 1e-5 * scale
    if expected.count > 1:
        spread = expected.variance.max().clamp(min=scale**2)
        assert (found.variance - expected.variance).abs().max() < 1e-5 * spread


def why_not(model, prompts, longest=30):
    prompts = [tuple(prompt) for prompt in prompts]
    prefix = SharedPrefix.of(model, prompts, shared_prefix_length(prompts))
    suffixes = [ids[prefix.length :] for ids in prompts]
    reader = Reader(model)
    return cannot_pack(
        model, suffixes, longest, prefix, lambda rows, places: reader._run(rows, places, prefix)[0]
    )


@pytest.mark.parametrize("family", PACKING)
@pytest.mark.parametrize("position", [-1, -2, 0, 3, 6])
def test_packed_prompts_give_the_same_as_alone(models, family, position, tokens_run):
    prompts = [prompt for prompt in PROMPTS if len(prompt) > position]
    found = cna_lens.collect(models[family], prompts, position=position)
    # Without a shared prefix, the trial of the model has shown that it packs.
    assert len(tokens_run) == (1 if position in (0, 3) else 2)
    assert tokens_run[-1][0] == 1
    plain = tiny.plain(family)
    expected = reference.activations(plain, prompts, position)
    torch.testing.assert_close(found.mean, expected.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.variance, expected.var(0), rtol=1e-5, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([*tiny.FAMILIES, "gemma3 wide"]),
    strategies.prompt_sets(9),
    st.integers(1, 40),
    st.sampled_from([-1, 0]),
)
def test_packing_changes_nothing(models_and_wide, family, prompts, row_tokens, position):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "ROW_TOKENS", row_tokens)
        found = cna_lens.collect(models_and_wide[family], prompts, position=position)
    alone = cna_lens.collect(
        models_and_wide[family], prompts, position=position, share_prefix=False
    )
    assert_same_statistics(found, alone)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_circuit_is_the_same(models, family):
    negative = [[*TEMPLATE, 20, *rest] for rest in ([21], [22, 23], [22, 24])]
    options = {"k": 12, "universal": None, "progress": False}
    found = cna_lens.find_circuit(models[family], PROMPTS, negative, **options)
    alone = cna_lens.find_circuit(models[family], PROMPTS, negative, batch_size=1, **options)
    assert found.neurons == alone.neurons
    assert found.scores == pytest.approx(alone.scores, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    "prompts",
    [
        [[5], [6], [7]],
        [[5, 6, 7]],
        [[5], [5, 6], [5, 6, 7], [5, 6, 7, 8], [5, 6, 8]],
        [[5, 6, 7]] * 4 + [[5, 6, 8]] * 2,
        [[5, 6, 7, 8]] * 3,
        [[5] * n for n in (3, 2, 1, 4, 4)],
    ],
    ids=["one token", "one prompt", "prefixes", "identical", "all identical", "one word"],
)
def test_special_sets_of_prompts(models, prompts):
    for family in tiny.FAMILIES:
        found = cna_lens.collect(models[family], prompts)
        expected = reference.activations(tiny.plain(family), prompts)
        torch.testing.assert_close(found.mean, expected.mean(0), rtol=1e-5, atol=1e-6)


def test_the_common_beginning_of_prompts_is_computed_once(llama, tokens_run):
    cna_lens.collect(llama, PROMPTS)
    how, write = 3 + 1 + 1 + 1 + 1 + 1 + 2 + 2 - 1, 1 + 1 + 1 + 1 + 1
    assert tokens_run == [(2, 6), (1, how + write)]


def test_rows_stay_within_the_limit_for_attention(llama, tokens_run):
    prompts = [
        [*TEMPLATE, first, second, third]
        for first in range(35, 50)
        for second in (5, 6)
        for third in (7, 8)
    ]
    cna_lens.collect(llama, prompts)
    ((rows, length),) = tokens_run[1:]
    assert rows > 1
    assert length <= packing.ROW_TOKENS


@pytest.mark.parametrize("options", [{"share_prefix": False}, {"batch_size": 8}])
def test_prompts_run_alone_on_request(llama, tokens_run, options):
    cna_lens.collect(llama, PROMPTS, **options)
    assert [rows for rows, _ in tokens_run] == [len(PROMPTS)]


def test_a_small_gain_is_not_worth_a_trial(llama, tokens_run, monkeypatch):
    saved = sum(map(len, PROMPTS)) - len(PROMPTS) * len(TEMPLATE) - 16
    monkeypatch.setattr(memory, "CPU_TOKENS", 8 * saved + 1)
    monkeypatch.setattr(packing, "WORTH_TRYING", 8)
    cna_lens.collect(llama, PROMPTS)
    assert tokens_run == [(len(PROMPTS), 6)]
    monkeypatch.setattr(memory, "CPU_TOKENS", 8 * saved)
    cna_lens.collect(llama, PROMPTS)
    assert tokens_run[1:] == [(2, 6), (1, 16)]


@pytest.mark.parametrize("row_tokens", [6, 96])
def test_every_prompt_keeps_its_row(llama, row_tokens, monkeypatch):
    monkeypatch.setattr(packing, "ROW_TOKENS", row_tokens)
    kept = cna_lens.collect(llama, PROMPTS, keep="all")
    expected = reference.activations(tiny.plain("llama"), PROMPTS)
    torch.testing.assert_close(kept.matrix().double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:a batch of:cna_lens.CnaLensWarning")
@pytest.mark.parametrize("limit", [1, 2, 3])
def test_a_batch_of_rows_that_does_not_fit_is_halved(llama, limit, monkeypatch):
    monkeypatch.setattr(packing, "ROW_TOKENS", 6)
    expected = cna_lens.collect(llama, PROMPTS, batch_size=1)
    tried = []
    trunk = packing.forward_trunk

    def cramped(model, ids, *args):
        tried.append(len(ids))
        if len(ids) > max(limit, 2 if len(tried) == 1 else 0):
            raise torch.OutOfMemoryError
        return trunk(model, ids, *args)

    monkeypatch.setattr(packing, "forward_trunk", cramped)
    assert_same_statistics(cna_lens.collect(llama, PROMPTS), expected)
    assert tried[0] == 2
    assert tried[1] > limit
    assert max(tried[-2:]) <= limit


def by_hook_point(model):
    return model.hooks(fwd_hooks=[(POST.format(0), lambda activation, hook: None)])


def by_torch(model):
    return model.original_model.model.layers[1].register_forward_hook(lambda *_: None)


def by_torch_before(model):
    return model.original_model.register_forward_pre_hook(partial(lambda *_: None))


def by_steering(model):
    return cna_lens.steer(model, CIRCUIT, -3.0, positions="last_prompt")


@pytest.mark.parametrize("hooked", [by_hook_point, by_torch, by_torch_before, by_steering])
def test_hooks_see_one_prompt_a_row(llama, hooked, tokens_run):
    with hooked(llama):
        assert "hook" in why_not(llama, PROMPTS)
        tokens_run.clear()
        found = cna_lens.collect(llama, PROMPTS)
        assert tokens_run == [(len(PROMPTS), 6)]
        alone = cna_lens.collect(llama, PROMPTS, share_prefix=False)
    assert_same_statistics(found, alone)
    tokens_run.clear()
    cna_lens.collect(llama, PROMPTS)
    assert tokens_run[-1] == (1, 16)


def test_a_model_packs_after_a_request_for_hidden_states():
    model = tiny.bridge("llama")
    with torch.no_grad():
        model.original_model(torch.tensor([[5, 6]]), output_hidden_states=True)
    assert why_not(model, PROMPTS) is None


def test_steering_by_weights_packs(llama, tokens_run):
    with cna_lens.steer(llama, CIRCUIT, -3.0):
        found = cna_lens.collect(llama, PROMPTS)
        assert tokens_run[-1] == (1, 16)
        assert_same_statistics(found, cna_lens.collect(llama, PROMPTS, share_prefix=False))


@pytest.mark.parametrize("family", PACKING)
def test_models_that_respect_a_tree_mask_pack(models, family):
    assert why_not(models[family], PROMPTS) is None


def test_transformer_lenss_own_hooks_allow_packing():
    """Its bridge of OPT has permanent hooks that keep the shape of the activations."""
    config = OPTConfig(
        vocab_size=64,
        hidden_size=16,
        ffn_dim=24,
        word_embed_proj_dim=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    model = boot(config, "OPTForCausalLM")
    assert why_not(model, PROMPTS) is None
    # TransformerLens 3.9's bridge has no caching hooks to add.
    one_hook = partial(model.add_hook, POST.format(0), lambda x, hook: None)
    getattr(model, "add_caching_hooks", one_hook)()
    assert "hook" in why_not(model, PROMPTS)


def test_a_reader_looks_up_its_sites_once(llama, monkeypatch):
    reader, looked = cna_lens.discovery.activations.reader, []
    for name in ("site_hook_names", "sparse_sites"):
        found = getattr(reader, name)(llama, *(["mlp.hook_post"] if "names" in name else []))
        monkeypatch.setattr(reader, name, lambda *_, found=found: looked.append(1) or found)
    cna_lens.collect(llama, PROMPTS, batch_size=2)
    assert len(looked) == 2


def test_a_window_wider_than_a_row_allows_packing(models_and_wide, tokens_run):
    model = models_and_wide["gemma3 wide"]
    found = cna_lens.collect(model, PROMPTS)
    assert tokens_run[-1] == (1, 16)
    assert_same_statistics(found, cna_lens.collect(model, PROMPTS, share_prefix=False))


@pytest.mark.parametrize(
    ("dtype", "packs"), [(torch.bfloat16, True), (torch.float16, True), (torch.float32, False)]
)
def test_rounding_in_half_precision_allows_packing(llama, dtype, packs):
    def read(rows, places):
        by_itself = torch.ones(tiny.WIDTH, dtype=dtype)
        return torch.stack([by_itself, 1.02 * by_itself, by_itself])

    suffixes = [tuple(prompt[len(TEMPLATE) :]) for prompt in PROMPTS]
    prefix = SharedPrefix(len(TEMPLATE))
    assert (cannot_pack(llama, suffixes, 30, prefix, read) is None) == packs


def test_a_prompt_longer_than_the_window_keeps_the_others_alone_too(models_and_wide, tokens_run):
    long = [*TEMPLATE, *range(3, 62), *range(3, 62), 9, 8, 7, 6, 5, 4]
    prompts = [*PROMPTS, long]
    model = models_and_wide["gemma3 wide"]
    found = cna_lens.collect(model, prompts)
    assert len(long) == 129
    assert sum(rows for rows, _ in tokens_run) == len(prompts)
    assert_same_statistics(found, cna_lens.collect(model, prompts, share_prefix=False))


def gpt_neo(window):
    return boot(
        GPTNeoConfig(
            vocab_size=64,
            hidden_size=16,
            intermediate_size=24,
            num_layers=2,
            num_heads=2,
            attention_types=[[["global", "local"], 1]],
            window_size=window,
            max_position_embeddings=256,
        ),
        "GPTNeoForCausalLM",
    )


UNABLE = {
    "a window": (lambda: tiny.bridge("gemma3"), "longer than the window of 8"),
    "a local layer": (lambda: gpt_neo(12), "longer than the window of 12"),
    "ALiBi that refuses": (
        lambda: boot(
            BloomConfig(vocab_size=64, hidden_size=16, n_layer=2, n_head=2), "BloomForCausalLM"
        ),
        "refuses a tree mask",
    ),
    "positions it does not heed": (
        lambda: without_positions(tiny.bridge("llama")),
        "computes a prompt differently",
    ),
    "a convolution": (
        lambda: boot(
            Lfm2Config(
                vocab_size=64,
                hidden_size=16,
                intermediate_size=24,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                layer_types=["conv", "full_attention"],
                block_auto_adjust_ff_dim=False,
            ),
            "Lfm2ForCausalLM",
        ),
        "cannot drop a finished answer",
    ),
}


def without_positions(model):
    forward = model.original_model.forward
    model.original_model.forward = lambda *args, position_ids=None, **kw: forward(*args, **kw)
    return model


@pytest.mark.filterwarnings("ignore::cna_lens.CnaLensWarning")
@pytest.mark.parametrize("kind", UNABLE)
def test_a_model_that_cannot_pack_says_why_and_runs_prompts_alone(kind, tokens_run):
    make, reason = UNABLE[kind]
    model = make()
    assert reason in why_not(model, PROMPTS)
    tokens_run.clear()
    found = cna_lens.collect(model, PROMPTS)
    assert tokens_run[-1][0] == len(PROMPTS)
    assert_same_statistics(found, cna_lens.collect(model, PROMPTS, share_prefix=False))


def test_without_a_shared_prefix_too_a_model_that_cannot_pack_runs_prompts_alone(tokens_run):
    model = tiny.untried_bridge("llama")
    tiny.refuse_tree_masks(model)
    prompts = [[5, 6, 7, 8], [5, 6, 7, 9], [15, 16, 17], [15, 16, 18]]
    cna_lens.collect(model, prompts)
    assert sum(rows for rows, _ in tokens_run) == len(prompts)


@pytest.mark.real_model
def test_texts_that_differ_within_a_word_give_the_same_as_alone(demo, tokens_run):
    """A tokenizer cuts "whisk" and "whisper" elsewhere, and "I" from "Iceland"."""
    texts = [
        f"How do I{rest}"
        for rest in (" whisk", " whisker", " whisper", "celand", " whisk eggs?", " whistle", "")
    ]
    found = cna_lens.collect(demo, texts, position=-1)
    assert len(tokens_run) == 2
    assert tokens_run[-1][0] == 1
    alone = cna_lens.collect(demo, texts, position=-1, batch_size=1, share_prefix=False)
    assert_same_statistics(found, alone)
