import pytest
import reference
import strategies
import tiny
import torch
from hypothesis import given, settings, strategies as st

import cna_lens
from cna_lens.models.running.decoding import seeds_of
from cna_lens.models.running.generation import finished_answers

PROMPTS = [[5, 6, 7, 8, 9], [30, 31], [40, 41, 42], [50, 51, 52, 53, 54, 55, 56], [33]]


def sample(model, prompts, **options):
    options = {"temperature": 1.0, "max_new_tokens": 8} | options
    return cna_lens.generate(model, prompts, **options)


# The same examples each time: about once in 100,000 draws, one lies within rounding of the border
# between two tokens.
@settings(max_examples=20, deadline=None, derandomize=True, database=None)
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


@pytest.mark.parametrize("top_p", [0.05, 0.3, 0.9])
def test_top_p_samples_from_the_fewest_tokens_of_that_probability(llama, top_p):
    n = 400
    logits = reference.logits(tiny.hugging_face("llama"), PROMPTS[0]).double()[-1]
    chances, order = logits.softmax(-1).sort(descending=True)
    nucleus = order[: int((chances.cumsum(0) < top_p).sum()) + 1].tolist()
    allowed = {llama.tokenizer.decode([token], skip_special_tokens=True) for token in nucleus}
    answers = set(sample(llama, [PROMPTS[0]] * n, max_new_tokens=1, top_p=top_p))
    assert answers <= allowed
    assert len(answers) > min(len(allowed), 5) - 1


def test_top_p_of_one_changes_nothing(llama):
    assert sample(llama, PROMPTS, top_p=1.0) == sample(llama, PROMPTS)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"top_p": 0.0}, "top_p is 0.0, expected a probability above 0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"top_p": 0.9, "temperature": 0.0}, "at temperature 0 the most likely token is taken"),
    ],
)
def test_a_top_p_that_cannot_be_obeyed_is_refused(llama, given, said):
    with pytest.raises(cna_lens.InputError, match=said):
        sample(llama, PROMPTS, **given)


def test_a_seed_keeps_its_stream():
    # Recorded answers can only be given again with the same numbers.
    assert seeds_of([(5, 6), (5, 6)], 1) == [50680999922483580, 69571122094739651]


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("places", "said"),
    [
        ([-1], "places holds -1, expected places of the prompts, 0 to 4"),
        ([0, 9], "places holds 9"),
        ([1.0], r"places holds 1\.0"),
        ([0, 0, 1], r"places is \[0, 0, 1\], expected each place once"),
    ],
)
def test_places_that_are_no_distinct_prompts_are_refused(llama, places, said):
    with pytest.raises(cna_lens.InputError, match=said):
        finished_answers(llama, PROMPTS, places=places)


def test_some_places_are_answered_as_among_all(llama):
    prompts = [*PROMPTS, PROMPTS[0], PROMPTS[0]]
    expected = sample(llama, prompts)
    options = {"temperature": 1.0, "max_new_tokens": 8}
    for places in ([], [6], [5, 1], [*range(7)]):
        found = dict(finished_answers(llama, prompts, places=places, **options))
        assert found == {place: expected[place] for place in places}
