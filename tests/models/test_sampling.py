import pytest
import reference
import strategies
import tiny
import torch
from hypothesis import given, settings, strategies as st

import cna_lens

PROMPTS = [[5, 6, 7, 8, 9], [30, 31], [40, 41, 42], [50, 51, 52, 53, 54, 55, 56], [33]]


def sample(model, prompts, **options):
    options = {"temperature": 1.0, "max_new_tokens": 8} | options
    return cna_lens.generate(model, prompts, **options)


@settings(max_examples=20, deadline=None)
@given(
    strategies.families,
    strategies.prompt_sets(max_length=6),
    st.integers(0, 3),
    st.sampled_from(["auto", 2, 100]),
)
def test_sampled_answers_do_not_depend_on_how_prompts_are_batched(
    models, family, prompts, seed, batch_size
):
    one_by_one = sample(models[family], prompts, seed=seed, batch_size=1, share_prefix=False)
    assert sample(models[family], prompts, seed=seed, batch_size=batch_size) == one_by_one


def test_an_answer_does_not_depend_on_later_prompts(model):
    answers = sample(model, PROMPTS)
    for count in (1, 2, 3):
        assert sample(model, PROMPTS[:count]) == answers[:count]


def test_a_seed_is_repeatable_and_another_gives_other_answers(model):
    assert sample(model, PROMPTS, seed=4) == sample(model, PROMPTS, seed=4)
    assert sample(model, PROMPTS, seed=4) != sample(model, PROMPTS, seed=5)


def test_sampling_leaves_torchs_own_generator_alone(llama):
    state = torch.get_rng_state()
    sample(llama, PROMPTS)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(9)
    answers = sample(llama, PROMPTS)
    torch.manual_seed(10)
    assert sample(llama, PROMPTS) == answers


def test_every_token_of_an_answer_is_drawn_separately(llama):
    # At this temperature all tokens are about equally likely; a repeated draw repeats its token.
    answers = sample(llama, PROMPTS, temperature=1e6, max_new_tokens=12)
    assert max(len(set(answer.split())) for answer in answers) > 3


def test_repeated_prompts_get_different_answers(llama):
    assert len(set(sample(llama, [PROMPTS[0]] * 10))) > 5


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_tokens_are_drawn_with_the_models_probabilities(llama, temperature):
    n = 2000
    logits = reference.logits(tiny.hugging_face("llama"), PROMPTS[0]).double()[-1]
    chances = (logits / temperature).softmax(-1)
    drawn = torch.zeros(tiny.VOCABULARY, dtype=torch.float64)
    answers = sample(llama, [PROMPTS[0]] * n, max_new_tokens=1, temperature=temperature)
    for answer in answers:
        # Special tokens leave no text.
        if answer:
            drawn[llama.tokenizer.convert_tokens_to_ids(answer)] += 1
    special = torch.tensor([0, 1, 2])
    kept = torch.ones(tiny.VOCABULARY, dtype=torch.bool)
    kept[special] = False
    # Six standard deviations of a count.
    allowed = 6 * (chances * (1 - chances) / n).sqrt() + 3 / n
    assert ((drawn / n - chances).abs() <= allowed)[kept].all()
    assert drawn[kept].gt(0).sum() > 5


def test_a_low_temperature_is_greedy(model):
    greedy = cna_lens.generate(model, PROMPTS, max_new_tokens=8)
    assert sample(model, PROMPTS, temperature=1e-4) == greedy
    assert sample(model, PROMPTS, temperature=2.0) != greedy


def test_an_answer_does_not_depend_on_its_prompts_place(model):
    answers = sample(model, PROMPTS)
    assert sample(model, PROMPTS[::-1]) == answers[::-1]
    assert [sample(model, [prompt])[0] for prompt in PROMPTS] == answers
