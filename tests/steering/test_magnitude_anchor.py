import pytest
import reference
import tiny
import torch
from steered import LAYOUT, NEGATIVE, POSITIVE, plain

import cna_lens
from cna_lens import Anchor, Circuit, Layout, Neuron

CIRCUIT = Circuit((Neuron(1, 20), Neuron(1, 3)), (2.0, 1.0), LAYOUT)
PROMPTS = [[33, 34, 35, 36, 37, 5, 6, 7], [33, 34, 35, 36, 37, 9], [30, 31, 32]]
TARGETS = [-4.0, 3.0]


def method_of(model, position=-1, **options):
    positive, negative = (
        cna_lens.collect(model, prompts, position=position) for prompts in (POSITIVE, NEGATIVE)
    )
    return cna_lens.magnitude_anchor(CIRCUIT, positive, negative, TARGETS, **options)


def values(hf, prompt, position=-1, scale=1.0):
    """The source's values for the neurons, which it reads in a separate pass on the prompt."""
    plus, minus = (
        reference.activations(hf, prompts, position).mean(0) for prompts in (POSITIVE, NEGATIVE)
    )
    on_prompt = reference.activations(hf, [prompt], position)[0]
    found = {}
    for neuron, target in zip(CIRCUIT, TARGETS, strict=True):
        at = LAYOUT.flat(neuron)
        difference = float(plus[at] - minus[at])
        value = target / difference * scale * float(on_prompt[at]) - difference
        found[neuron] = min(value, target) if target > 0 else max(value, target)
    return found


def setting(found, strength=1.0, places=slice(None)):
    def change(layer, activation):
        activation = activation.clone()
        for (at, index), value in found.items():
            if at == layer:
                old = activation[:, places, index]
                activation[:, places, index] = old + strength * (value - old)
        return activation

    return change


def test_the_published_numbers():
    anchor = Anchor.of(positive=1.111, negative=-0.001657, target=-4.0)
    assert anchor.offset == pytest.approx(-1.112657, abs=5e-7)
    assert anchor.multiplier == pytest.approx(-3.594998, abs=5e-7)


def test_an_anchor_does_not_go_beyond_its_target():
    down, up = Anchor(-3.0, -1.0, -4.0), Anchor(3.0, -1.0, 4.0)
    v = torch.tensor([-1.0, 0.0, 0.5, 1.0, 5.0])
    assert down(v).tolist() == [2.0, -1.0, -2.5, -4.0, -4.0]
    assert up(v).tolist() == [-4.0, -1.0, 0.5, 2.0, 4.0]


@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize("position", [-1, -2, 0])
def test_neurons_are_set_by_their_activation_on_the_same_prompt(model, position, strength):
    method = method_of(model, position)
    texts = PROMPTS[:2]
    length = max(map(len, texts))
    for side in ("left", "right"):
        ids, mask = torch.zeros(2, len(texts), length, dtype=torch.long)
        for row, text in enumerate(texts):
            at = slice(length - len(text), None) if side == "left" else slice(0, len(text))
            ids[row, at], mask[row, at] = torch.tensor(text), 1
        with torch.no_grad(), method.at(model, strength):
            logits = model(ids, attention_mask=mask)
        for row, text in enumerate(texts):
            hf = plain(model)
            found = values(hf, text, position)
            with reference.changed(hf, setting(found, strength)):
                expected = hf(torch.tensor([text])).logits[0]
            torch.testing.assert_close(logits[row, mask[row].bool()], expected, rtol=0, atol=5e-5)


def greedy(model, prompt, places=lambda p: slice(None), scale=1.0, stops=(2,)):
    hf = plain(model)
    found = values(hf, prompt, scale=scale)
    with reference.changed(hf, setting(found, places=places(len(prompt)))):
        tokens = reference.greedy(hf, prompt, 8, stops)
    return model.tokenizer.decode(tokens, skip_special_tokens=True)


@pytest.mark.parametrize(
    ("positions", "places"),
    [
        pytest.param("all", lambda p: slice(None), marks=pytest.mark.long),
        ("from_last_prompt", lambda p: slice(p - 1, None)),
        pytest.param("generated", lambda p: slice(p, None), marks=pytest.mark.long),
    ],
)
def test_answers_keep_to_their_own_prompts_anchor(model, positions, places):
    with method_of(model, positions=positions, scale=3.0).at(model):
        answers = cna_lens.generate(model, PROMPTS, max_new_tokens=8)
    assert answers == [greedy(model, prompt, places, 3.0) for prompt in PROMPTS]


def test_answers_keep_to_their_anchor_when_others_have_left_the_batch(llama, monkeypatch):
    stops = frozenset(range(0, tiny.VOCABULARY, 5))
    monkeypatch.setattr("cna_lens.models.running.request.end_of_turn_ids", lambda model: stops)
    prompts = [[first, second, 6, 7] for first in (5, 30, 40, 51) for second in (8, 9, 21)]
    with method_of(llama, scale=3.0).at(llama):
        answers = cna_lens.generate(llama, prompts, max_new_tokens=8)
    assert answers == [greedy(llama, prompt, scale=3.0, stops=stops) for prompt in prompts]
    assert len({len(answer.split()) for answer in answers}) > 3


def test_prompts_of_a_batch_that_are_read_in_several_passes_keep_their_anchors(llama, monkeypatch):
    monkeypatch.setattr("cna_lens.models.running.request.cost_of_passes", lambda *_: (0, 1000))
    passes = []
    note = [("blocks.0.mlp.hook_post", lambda a, hook: passes.append(tuple(a.shape[:2])))]
    mixed = [[30 + i, 31, 32] for i in range(6)] + [[40 + i, *range(3, 43)] for i in range(6)]
    method = method_of(llama)
    with method.at(llama, 1.0):
        with llama.hooks(fwd_hooks=note):
            together = cna_lens.generate(llama, mixed, max_new_tokens=4, batch_size=12)
        assert passes[:2] == [(6, 3), (6, 41)]
        alone = cna_lens.generate(llama, mixed, max_new_tokens=4, batch_size=1)
    assert together == alone
    assert together != cna_lens.generate(llama, mixed, max_new_tokens=4)


def test_rows_that_leave_the_batch_take_their_anchor_along(llama):
    method = method_of(llama)
    with torch.no_grad(), method.at(llama), cna_lens.prompt_lengths([8, 6], rows=[7, 4]):
        texts = PROMPTS[:2]
        ids = torch.tensor([texts[0], [0, 0, *texts[1]]])
        mask = torch.tensor([[1] * 8, [0, 0, *[1] * 6]])
        _, cache = llama.forward(
            ids, attention_mask=mask, return_type="logits_and_cache", use_cache=True
        )
        cache.batch_select_indices(torch.tensor([1]))
        with cna_lens.prompt_lengths([6], rows=[4]):
            logits = llama.forward(
                torch.tensor([[50]]),
                attention_mask=torch.tensor([[0, 0, *[1] * 7]]),
                past_key_values=cache,
            )
    hf = plain(llama)
    with reference.changed(hf, setting(values(hf, texts[1]))):
        expected = hf(torch.tensor([[*texts[1], 50]])).logits[0, -1]
    torch.testing.assert_close(logits[0, -1], expected, rtol=0, atol=5e-5)


def test_a_prompt_whose_anchor_token_was_not_seen_is_refused(llama):
    method = method_of(llama)
    with torch.no_grad(), method.at(llama):
        llama(torch.tensor([PROMPTS[0]]))
        with (
            cna_lens.prompt_lengths([8]),
            pytest.raises(cna_lens.ModelError, match="run each prompt in one piece"),
        ):
            llama(torch.tensor([PROMPTS[0][:5]]))


def test_rows_that_are_not_those_of_the_batch_are_refused(llama):
    with (
        method_of(llama).at(llama),
        cna_lens.prompt_lengths([8], rows=[0, 1]),
        pytest.raises(cna_lens.InputError, match="2 rows for a batch of 1"),
    ):
        llama(torch.tensor([PROMPTS[0]]))


def test_a_pass_that_does_not_tell_its_prompts_is_refused(llama):
    method = method_of(llama)
    activation = torch.zeros(1, 3, tiny.WIDTH)
    with method.at(llama), pytest.raises(cna_lens.ModelError, match=r"cna_lens\.generate$"):
        llama.hook_dict["blocks.1.mlp.hook_post"](activation)


def test_the_prefix_that_prompts_share_is_computed_with_each_of_them(llama):
    seen = []
    note = [("blocks.0.mlp.hook_post", lambda a, hook: seen.append(tuple(a.shape[:2])))]
    with llama.hooks(fwd_hooks=note):
        cna_lens.generate(llama, PROMPTS[:2], max_new_tokens=1)
        assert seen.pop(0) == (1, 5)
        seen.clear()
        with method_of(llama).at(llama):
            seen.clear()
            cna_lens.generate(llama, PROMPTS[:2], max_new_tokens=1)
        assert seen[0] == (2, 8)


@pytest.mark.parametrize(
    ("targets", "message"),
    [([1.0], "1 targets for 2 neurons"), ([1.0, float("nan")], "target is nan")],
)
def test_targets_that_do_not_fit_are_refused(llama, targets, message):
    stats = cna_lens.collect(llama, POSITIVE), cna_lens.collect(llama, NEGATIVE)
    with pytest.raises(cna_lens.InputError, match=message):
        cna_lens.magnitude_anchor(CIRCUIT, *stats, targets)


def test_statistics_that_do_not_fit_are_refused(llama):
    positive = cna_lens.collect(llama, POSITIVE)
    with pytest.raises(cna_lens.InputError, match="the same on positive and negative"):
        cna_lens.magnitude_anchor(CIRCUIT, positive, positive, -1.0)
    elsewhere = cna_lens.collect(llama, NEGATIVE, position=0)
    with pytest.raises(cna_lens.InputError, match=r"positions \[-1, 0\]"):
        cna_lens.magnitude_anchor(CIRCUIT, positive, elsewhere, -1.0)
    narrow = cna_lens.ActivationStats.of(torch.ones(2, 4), Layout((4,)))
    with pytest.raises(cna_lens.InputError, match="the negative statistics are of"):
        cna_lens.magnitude_anchor(CIRCUIT, positive, narrow, -1.0)
    with pytest.raises(cna_lens.InputError, match="1 anchors for 2 neurons"):
        cna_lens.MagnitudeAnchor(CIRCUIT, (Anchor(1.0, 1.0, 1.0),))
