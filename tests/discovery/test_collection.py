import reference
import strategies
import tiny
import torch
from hypothesis import given, settings, strategies as st

import cna_lens

PROMPTS = [[5, 6, 7], [8, 9, 3, 4, 30, 31, 32], [40, 41], [50, 5, 51, 6, 52], [33, 34, 35]]


def assert_same_moments(stats, activations):
    scale = activations.abs().amax()
    assert stats.count == len(activations)
    assert (stats.mean - activations.mean(0)).abs().max() < 1e-5 * scale
    if len(activations) > 1:
        variance = activations.var(0)
        assert (stats.variance - variance).abs().max() < 1e-5 * variance.max().clamp(min=scale**2)


def test_means_and_variances_are_those_of_plain_hooks_one_prompt_at_a_time(model):
    hf = tiny.plain(model.cfg.model_name.removeprefix("tiny-"))
    for position in (-1, -2, 0, 1):
        stats = cna_lens.collect(model, PROMPTS, position=position)
        expected = reference.activations(hf, PROMPTS, position)
        torch.testing.assert_close(stats.mean, expected.mean(0), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(stats.variance, expected.var(0), rtol=1e-5, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    st.data(),
    strategies.families,
    strategies.prompt_sets(),
    st.sampled_from(["auto", 1, 2, 3, 100]),
    st.booleans(),
)
def test_batches_and_shared_prefixes_change_nothing(
    models, data, family, prompts, batch_size, share_prefix
):
    shortest = min(map(len, prompts))
    position = data.draw(st.integers(-shortest, shortest - 1))
    shuffled = data.draw(st.permutations(prompts))
    stats = cna_lens.collect(
        models[family],
        shuffled,
        position=position,
        batch_size=batch_size,
        share_prefix=share_prefix,
    )
    plain = tiny.plain(family)
    assert_same_moments(stats, reference.activations(plain, prompts, position))


def test_prompts_that_differ_only_in_their_last_token_share_the_rest(model):
    prompts = [[*range(30, 45), last] for last in (5, 6, 7)]
    hf = tiny.plain(model.cfg.model_name.removeprefix("tiny-"))
    stats = cna_lens.collect(model, prompts)
    assert_same_moments(stats, reference.activations(hf, prompts))


def test_a_shared_prefix_is_computed_once(llama):
    positions = []

    def count(activation, hook):
        positions.append(activation.shape[0] * activation.shape[1])

    prompts = [[*range(30, 40), *rest] for rest in ([5, 6], [6, 7], [7, 8])]
    with llama.hooks(fwd_hooks=[("blocks.0.mlp.hook_post", count)]):
        cna_lens.collect(llama, prompts)
        assert sum(positions) == 10 + 3 * 2
        positions.clear()
        cna_lens.collect(llama, prompts, share_prefix=False)
        assert sum(positions) == 3 * 12


def test_the_side_on_which_the_tokenizer_pads_does_not_matter(model, monkeypatch):
    texts = ["w5 w6 w7 w8 w9", "w3", "w30 w31"]
    one_by_one = [cna_lens.collect(model, [text], chat=False).mean for text in texts]
    for side in ("left", "right"):
        monkeypatch.setattr(model.tokenizer, "padding_side", side)
        assert_same_moments(cna_lens.collect(model, texts, chat=False), torch.stack(one_by_one))


def test_the_statistics_say_where_they_come_from(llama):
    stats = cna_lens.collect(llama, PROMPTS, position=-2)
    assert stats.layout == cna_lens.Layout((tiny.WIDTH, tiny.WIDTH))
    assert (stats.source.model, stats.source.position) == ("tiny-llama", -2)
    assert stats.source.prompts.count == len(PROMPTS)
