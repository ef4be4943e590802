import pytest
import reference
import tiny
import torch
from hypothesis import given, settings, strategies as st
from strategies import families, tokens

import cna_lens
from cna_lens import Circuit, Layout, Neuron

CIRCUIT = Circuit(
    (Neuron(1, 3), Neuron(0, 2), Neuron(0, 7)), (3.0, 2.0, 1.0), Layout((tiny.WIDTH,) * 2)
)
# The steered places of each scope, for a prompt of p tokens and an answer of any length.
PLACES = {
    "all": lambda p: slice(None),
    "prompt": lambda p: slice(0, p),
    "last_prompt": lambda p: slice(p - 1, p),
    "from_last_prompt": lambda p: slice(p - 1, None),
    "generated": lambda p: slice(p, None),
}
scopes = pytest.mark.parametrize("scope", PLACES)
rows = st.tuples(st.lists(tokens, min_size=1, max_size=7), st.lists(tokens, min_size=0, max_size=5))


def slow(family, prompt, answer, scope, multiplier=3.0):
    """Compute the logits of prompt and answer in one pass, changed only at the scope's places."""
    hf = tiny.plain(family)
    change = reference.scale_at(CIRCUIT, multiplier, PLACES[scope](len(prompt)))
    with reference.changed(hf, change):
        return hf(torch.tensor([[*prompt, *answer]])).logits[0]


def padded(texts, side):
    length = max(map(len, texts))
    ids, mask = torch.zeros(2, len(texts), length, dtype=torch.long)
    for row, text in enumerate(texts):
        at = slice(length - len(text), None) if side == "left" else slice(0, len(text))
        ids[row, at] = torch.tensor(text)
        mask[row, at] = 1
    return ids, mask


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


@settings(max_examples=80, deadline=None)
@given(
    families,
    st.sampled_from(list(PLACES)),
    st.sampled_from(["left", "right"]),
    st.lists(rows, min_size=1, max_size=4),
)
def test_stated_lengths_place_the_scope_in_a_pass_over_prompt_and_answer(
    models, family, scope, side, batch
):
    ids, mask = padded([[*prompt, *answer] for prompt, answer in batch], side)
    with (
        torch.no_grad(),
        cna_lens.steer(models[family], CIRCUIT, 3.0, positions=scope, via="hooks"),
        cna_lens.prompt_lengths([len(prompt) for prompt, _ in batch]),
    ):
        logits = models[family](ids, attention_mask=mask)
    for row, (prompt, answer) in enumerate(batch):
        assert_same(logits[row, mask[row].bool()], slow(family, prompt, answer, scope))


@scopes
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_plain_pass_counts_as_all_prompt(model, scope, side):
    family = model.cfg.model_name.removeprefix("tiny-")
    texts = [[5, 6, 7, 8], [30, 31]]
    ids, mask = padded(texts, side)
    with torch.no_grad(), cna_lens.steer(model, CIRCUIT, 3.0, positions=scope, via="hooks"):
        logits = model(ids, attention_mask=mask)
    for row, text in enumerate(texts):
        assert_same(logits[row, mask[row].bool()], slow(family, text, [], scope))


@scopes
@pytest.mark.parametrize("entry", ["bridge", "hugging face"])
def test_a_growing_cache_keeps_the_prompts_end(model, scope, entry):
    family = model.cfg.model_name.removeprefix("tiny-")
    prompt, answer = [5, 6, 7, 8], [30, 31, 32]
    expected = slow(family, prompt, answer, scope)
    hf = model.original_model
    with torch.no_grad(), cna_lens.steer(model, CIRCUIT, 3.0, positions=scope, via="hooks"):
        # Two prompts of different lengths, since one context may see many.
        for text in ([9, 9], prompt):
            cache, found = None, []
            for new in ([text], *([[token]] for token in answer)):
                ids = torch.tensor(new)
                if entry == "bridge":
                    logits, cache = model.forward(
                        ids, return_type="logits_and_cache", use_cache=True, past_key_values=cache
                    )
                else:
                    out = hf(ids, use_cache=True, past_key_values=cache)
                    logits, cache = out.logits, out.past_key_values
                found.append(logits[0])
        assert_same(torch.cat(found), expected)


def steered_greedy(family, prompt, scope, multiplier, new=6):
    answer = []
    while len(answer) < new:
        token = int(slow(family, prompt, answer, scope, multiplier)[-1].argmax())
        if token == 2:
            break
        answer.append(token)
    return answer


PROMPTS = [[5, 6, 7, 8, 9], [30, 31], [40, 41, 42], [50, 51, 52, 53, 54, 55, 56]]
PREFIXED = [[*range(33, 39), *prompt] for prompt in PROMPTS]


@scopes
@pytest.mark.parametrize("prompts", [PROMPTS, PREFIXED], ids=["alone", "prefixed"])
def test_generation_in_batches_steers_at_the_scopes_places(model, scope, prompts):
    family = model.cfg.model_name.removeprefix("tiny-")
    with cna_lens.steer(model, CIRCUIT, -6.0, positions=scope, via="hooks"):
        answers = cna_lens.generate(model, prompts, max_new_tokens=6)
    assert answers == [
        model.tokenizer.decode(
            steered_greedy(family, prompt, scope, -6.0), skip_special_tokens=True
        )
        for prompt in prompts
    ]


@scopes
@pytest.mark.parametrize("entry", ["bridge", "hugging face"])
def test_the_models_own_generation_steers_at_the_scopes_places(model, scope, entry):
    family = model.cfg.model_name.removeprefix("tiny-")
    prompt = PROMPTS[0]
    ids = torch.tensor([prompt])
    with cna_lens.steer(model, CIRCUIT, -6.0, positions=scope, via="hooks"):
        if entry == "bridge":
            out = model.generate(
                ids, max_new_tokens=6, do_sample=False, verbose=False, return_type="tokens"
            )
        else:
            out = model.original_model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False
            )
    answer = [token for token in out[0, len(prompt) :].tolist() if token not in (0, 2)]
    assert answer == steered_greedy(family, prompt, scope, -6.0)


@scopes
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_belongs_to_no_scope(llama, scope, side):
    seen = []
    ids, mask = padded([[5, 6, 7, 8, 9], [30, 31]], side)
    with (
        torch.no_grad(),
        cna_lens.steer(llama, CIRCUIT, values=[1e3] * 3, positions=scope, via="hooks"),
        cna_lens.prompt_lengths([4, 1]),
        llama.hooks(fwd_hooks=[("blocks.0.mlp.hook_post", lambda a, **_: seen.append(a))]),
    ):
        llama(ids, attention_mask=mask)
    steered = seen[0][..., 2] == 1e3
    assert steered.any()
    if scope != "all":
        assert not steered[mask == 0].any()


def test_the_scopes_have_different_effects_on_an_answer():
    prompt, answer = PROMPTS[0], PROMPTS[1]
    last = [slow("llama", prompt, answer, scope)[-1] for scope in PLACES]
    for i, one in enumerate(last):
        assert all((one - other).abs().max() > 1e-3 for other in last[:i])
