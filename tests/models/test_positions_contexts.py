from contextlib import nullcontext, suppress

import pytest
import reference
import tiny
import torch

import cna_lens
from cna_lens import Circuit, Layout, Neuron

LAYOUT = Layout((tiny.WIDTH, tiny.WIDTH))
CIRCUIT = Circuit((Neuron(1, 3), Neuron(0, 2)), (2.0, 1.0), LAYOUT)
SINGLE = ("prompt", "last_prompt", "from_last_prompt", "generated")
scopes = pytest.mark.parametrize("scope", SINGLE)
PROMPT = [5, 6, 7, 8]


def run(model, *ids):
    with torch.no_grad():
        return model(torch.tensor([list(ids)]))[0]


@scopes
def test_an_input_that_grows_without_a_cache_is_refused(llama, scope):
    with cna_lens.steer(llama, CIRCUIT, 0.0, positions=scope):
        run(llama, *PROMPT)
        with pytest.raises(
            cna_lens.InputError, match="use the cache, or state the prompt's length"
        ):
            run(llama, *PROMPT, 9)


@scopes
def test_the_models_own_generation_without_a_cache_is_refused(llama, scope):
    ids = torch.tensor([PROMPT])
    with (
        cna_lens.steer(llama, CIRCUIT, 0.0, positions=scope),
        pytest.raises(cna_lens.InputError, match="without a KV cache"),
    ):
        llama.generate(
            ids, max_new_tokens=3, use_past_kv_cache=False, verbose=False, stop_at_eos=False
        )


def test_a_growing_input_is_accepted_where_the_prompts_length_is_stated(llama):
    hf = tiny.hugging_face("llama")
    with (
        cna_lens.steer(llama, CIRCUIT, 3.0, positions="last_prompt"),
        cna_lens.prompt_lengths([4]),
        reference.changed(hf, reference.scale_at(CIRCUIT, 3.0, slice(3, 4))),
    ):
        for ids in (PROMPT, [*PROMPT, 9], [*PROMPT, 9, 30]):
            torch.testing.assert_close(run(llama, *ids), reference.logits(hf, ids))


def test_other_prompts_of_any_length_count_as_new_prompts(llama):
    hf = tiny.hugging_face("llama")
    with cna_lens.steer(llama, CIRCUIT, 3.0, positions="last_prompt"):
        for ids in (PROMPT, PROMPT, [9, 6, 7, 8, 30], PROMPT[:2], [*PROMPT, 9, 30]):
            last = slice(len(ids) - 1, None)
            with reference.changed(hf, reference.scale_at(CIRCUIT, 3.0, last)):
                expected = reference.logits(hf, ids)
            torch.testing.assert_close(run(llama, *ids), expected)


def test_a_new_context_forgets_the_last_one(llama):
    for ids in (PROMPT, [*PROMPT, 9]):
        with cna_lens.steer(llama, CIRCUIT, 0.0, positions="prompt"):
            run(llama, *ids)


def test_prompt_lengths_for_another_number_of_rows_are_refused(llama):
    with (
        cna_lens.steer(llama, CIRCUIT, 0.0, positions="prompt"),
        cna_lens.prompt_lengths([4, 4]),
        pytest.raises(cna_lens.InputError, match="2 prompt lengths for a batch of 1"),
    ):
        run(llama, *PROMPT)


def test_prompt_lengths_apply_only_within_their_context(llama):
    with cna_lens.steer(llama, CIRCUIT, 0.0, positions="prompt"):
        expected = run(llama, *PROMPT)
        with suppress(ValueError), cna_lens.prompt_lengths([1]):
            with cna_lens.prompt_lengths(torch.tensor([2])):
                inner = run(llama, *PROMPT)
            outer = run(llama, *PROMPT)
            raise ValueError
        assert not torch.equal(inner, outer)
        assert torch.equal(run(llama, *PROMPT), expected)


@scopes
def test_a_pass_that_does_not_state_the_prompts_end_is_refused(llama, scope):
    with (
        cna_lens.steer(llama, CIRCUIT, 0.0, positions=scope),
        pytest.raises(cna_lens.ModelError, match="use positions='all'"),
        torch.no_grad(),
    ):
        llama.blocks[0].mlp(torch.ones(1, 4, 16))


def test_a_failed_pass_does_not_affect_the_next_one(llama):
    def fail(activation, hook):
        raise KeyError

    with cna_lens.steer(llama, CIRCUIT, 0.0, positions="prompt"), torch.no_grad():
        with (
            pytest.raises(KeyError),
            llama.hooks(fwd_hooks=[("blocks.1.mlp.hook_post", fail)]),
        ):
            run(llama, *PROMPT)
        with pytest.raises(cna_lens.ModelError, match="use positions='all'"):
            llama.blocks[0].mlp(torch.ones(1, 4, 16))


def test_nested_contexts_each_keep_their_positions(llama):
    hf = tiny.hugging_face("llama")
    outer = reference.scale_at(CIRCUIT, 3.0, slice(3, 4))
    inner = reference.scale_at(CIRCUIT, -2.0, slice(0, 4))
    ids = [*PROMPT, 9, 30]
    with reference.changed(hf, lambda layer, a: inner(layer, outer(layer, a))):
        expected = reference.logits(hf, ids)
    with (
        cna_lens.prompt_lengths([4]),
        cna_lens.steer(llama, CIRCUIT, 3.0, positions="last_prompt"),
        cna_lens.steer(llama, CIRCUIT, -2.0, positions="prompt"),
    ):
        torch.testing.assert_close(run(llama, *ids), expected)


@scopes
def test_values_are_set_at_the_scopes_positions_only(llama, scope):
    seen = []
    note = [("blocks.0.mlp.hook_post", lambda a, hook: seen.append(a[0, :, 2].tolist()))]
    with (
        cna_lens.prompt_lengths([4]),
        cna_lens.steer(llama, CIRCUIT, values=[70.0, 80.0], positions=scope),
        llama.hooks(fwd_hooks=note),
    ):
        run(llama, *PROMPT, 9, 30)
    steered = {
        "prompt": [0, 1, 2, 3],
        "last_prompt": [3],
        "from_last_prompt": [3, 4, 5],
        "generated": [4, 5],
    }
    assert [place for place, value in enumerate(seen[0]) if value == 80] == steered[scope]


@pytest.mark.parametrize("share_prefix", [True, False])
def test_collecting_inside_a_context_reads_the_steered_positions(llama, share_prefix):
    prompts = [[*range(33, 40), *rest] for rest in ([5, 6], [7], [8, 9, 30])]
    options = {"share_prefix": share_prefix}
    zeros = [LAYOUT.flat(neuron) for neuron in CIRCUIT]
    plain = cna_lens.collect(llama, prompts, position=-3, **options)
    with cna_lens.steer(llama, CIRCUIT, 0.0, positions="last_prompt"):
        last = cna_lens.collect(llama, prompts, **options)
        before = cna_lens.collect(llama, prompts, position=-3, **options)
    assert (last.mean[zeros] == 0).all()
    torch.testing.assert_close(before.mean, plain.mean)


RIGHT = [[5, 6, 7, 8], [30, 31, 0, 0]]


@scopes
@pytest.mark.parametrize(
    "enter",
    [
        lambda model: model(torch.tensor(RIGHT)),
        lambda model: model(["w5 w6 w7 w8", "w30 w31"]),
        lambda model: model.generate(torch.tensor(RIGHT), max_new_tokens=2, verbose=False),
    ],
    ids=["tokens", "texts", "generate"],
)
def test_padding_behind_a_prompt_without_a_mask_is_refused(llama, scope, enter):
    with (
        cna_lens.steer(llama, CIRCUIT, 0.0, positions=scope),
        pytest.raises(cna_lens.InputError, match="row 1 ends with the padding token 0"),
        torch.no_grad(),
    ):
        enter(llama)


LEFT = [[5, 6, 7, 8], [0, 0, 30, 31]]


@scopes
@pytest.mark.parametrize(
    "enter",
    [
        lambda model: model(torch.tensor(LEFT)),
        lambda model: model.original_model(torch.tensor(LEFT)),
        lambda model: model.generate(torch.tensor(LEFT), max_new_tokens=2, verbose=False),
    ],
    ids=["tokens", "hugging face", "generate"],
)
def test_padding_before_a_prompt_without_a_mask_is_refused(llama, scope, enter):
    with (
        cna_lens.steer(llama, CIRCUIT, 0.0, positions=scope),
        pytest.raises(cna_lens.InputError, match="row 1 begins with the padding token 0"),
        torch.no_grad(),
    ):
        enter(llama)


@pytest.mark.parametrize("token", ["bos_token", "eos_token"])
@pytest.mark.parametrize(
    ("lengths", "accepted"),
    [((1,), True), ((1, 1), True), ((1, 0), False), ((2, 1), False), ((2,), False)],
)
def test_where_texts_begin_with_the_padding_token_one_in_every_row_is_text(
    lengths, accepted, token
):
    model = tiny.bridge("llama")
    model.tokenizer.pad_token = getattr(model.tokenizer, token)
    pad = model.tokenizer.pad_token_id
    rows = [[pad] * n + [5, 6, 7][n:] for n in lengths]
    expected = nullcontext() if accepted else pytest.raises(cna_lens.InputError, match="row 0 beg")
    with cna_lens.steer(model, CIRCUIT, 0.0, positions="prompt"), torch.no_grad(), expected:
        model(torch.tensor(rows))


def test_an_anchor_is_not_read_at_a_pad(llama):
    means = [cna_lens.collect(llama, prompts) for prompts in ([PROMPT, [9, 10]], [[11, 12]])]
    method = cna_lens.magnitude_anchor(CIRCUIT, *means, target=0.0)
    with (
        method.at(llama),
        pytest.raises(cna_lens.InputError, match="row 1 ends with the padding"),
        torch.no_grad(),
    ):
        llama(torch.tensor(RIGHT))


@pytest.mark.parametrize("how", ["mask", "lengths"])
def test_with_a_mask_or_lengths_padding_is_not_steered(llama, how):
    ids = torch.tensor(RIGHT)
    given = {"attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])} if how == "mask" else {}
    with (
        torch.no_grad(),
        cna_lens.steer(llama, CIRCUIT, 3.0, positions="last_prompt"),
        nullcontext() if how == "mask" else cna_lens.prompt_lengths([4, 2]),
    ):
        found = llama(ids, **given)[1, :2]
    with cna_lens.steer(llama, CIRCUIT, 3.0, positions="last_prompt"):
        torch.testing.assert_close(found, run(llama, 30, 31))


@pytest.mark.parametrize(
    ("rows", "accepted"),
    [
        ([[5, 6, 2]], True),
        ([[5, 6, 2], [7, 8, 2]], True),
        ([[5, 6, 2], [7, 8, 9]], False),
        ([[5, 2, 2]], False),
        ([[5, 6, 7], [8, 2, 9]], True),
    ],
)
def test_where_texts_end_with_the_padding_token_one_in_every_row_is_text(rows, accepted):
    model = tiny.bridge("llama")
    model.tokenizer.pad_token = model.tokenizer.eos_token
    expected = nullcontext() if accepted else pytest.raises(cna_lens.InputError, match="token 2")
    with cna_lens.steer(model, CIRCUIT, 0.0, positions="last_prompt"), torch.no_grad(), expected:
        model(torch.tensor(rows))


def test_a_model_without_a_tokenizer_has_no_padding_token():
    model = tiny.bridge("llama")
    model.tokenizer = None
    with cna_lens.steer(model, CIRCUIT, 0.0, positions="last_prompt"):
        run(model, 5, 0)
