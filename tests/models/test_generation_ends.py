import pytest
import reference
import tiny
import torch

import cna_lens
from cna_lens.models.running import request

PROMPTS = [[5, 6, 7, 8, 9], [30, 31], [40, 41, 42], [50, 51, 52, 53, 54, 55, 56], [33], [7, 3]]
NEW = 12


@pytest.fixture
def fresh():
    return tiny.bridge("llama")


@pytest.fixture
def in_one_pass(monkeypatch):
    """One pass reads a whole batch, whatever a pass costs here."""
    monkeypatch.setattr(request, "cost_of_passes", lambda *_: (10_000, 10_000))


@pytest.fixture(scope="module")
def uncut():
    """Give each prompt's answer without any stop."""
    hf = tiny.hugging_face("llama")
    return [reference.greedy(hf, ids, NEW, stops=()) for ids in PROMPTS]


def cut(answers, stops):
    """Each answer up to its first stop."""
    ends = [
        next((place for place, token in enumerate(answer) if token in stops), len(answer))
        for answer in answers
    ]
    return [answer[:end] for answer, end in zip(answers, ends, strict=True)]


def some_stops(answers):
    """Choose tokens that end answers at different places, one at its start, and one not at all."""
    first = {answer[0] for answer in answers}
    for one in sorted(first):
        for other in sorted({token for answer in answers for token in answer} - first):
            lengths = {len(answer) for answer in cut(answers, (one, other))}
            if {0, NEW} < lengths:
                return one, other
    raise AssertionError("choose other prompts")


def one_stop(answers):
    """Choose a token that ends an answer in its middle, before a different token."""
    for answer in answers:
        for place in range(1, len(answer) - 1):
            stop = answer[place]
            # Names of lower tokens begin with names of special tokens.
            if stop >= 30 and stop not in answer[:place] and stop != answer[place + 1]:
                return stop
    raise AssertionError("choose other prompts")


def texts(model, answers):
    return [model.tokenizer.decode(answer, skip_special_tokens=True) for answer in answers]


@pytest.mark.parametrize("batch_size", [1, 2, 6])
def test_answers_end_before_their_first_stop_while_the_others_go_on(fresh, uncut, batch_size):
    stops = some_stops(uncut)
    fresh.original_model.generation_config.eos_token_id = list(stops)
    answers = cna_lens.generate(fresh, PROMPTS, max_new_tokens=NEW, batch_size=batch_size)
    assert answers == texts(fresh, cut(uncut, stops))


def test_the_tokenizers_end_stops_too(fresh, uncut):
    stop = one_stop(uncut)
    fresh.tokenizer.eos_token = f"w{stop}"
    fresh.original_model.generation_config.eos_token_id = None
    answers = cna_lens.generate(fresh, PROMPTS, max_new_tokens=NEW)
    assert answers == texts(fresh, cut(uncut, (stop,)))


def test_the_end_of_a_turn_in_the_chat_template_stops_too(fresh, uncut):
    stop = one_stop(uncut)
    fresh.tokenizer.add_special_tokens({"additional_special_tokens": [f"w{stop}"]})
    fresh.tokenizer.chat_template = (
        "{% for m in messages %}{{ m['content'] }} " + f"w{stop}" + " {% endfor %}"
    )
    answers = cna_lens.generate(fresh, PROMPTS, max_new_tokens=NEW)
    assert answers == texts(fresh, cut(uncut, (2, stop)))


def test_a_word_after_an_answer_that_is_not_special_does_not_stop_it(fresh, uncut):
    word = one_stop(uncut)
    fresh.tokenizer.chat_template = (
        "{% for m in messages %}{{ m['content'] }} " + f"w{word}" + " {% endfor %}"
    )
    answers = cna_lens.generate(fresh, PROMPTS, max_new_tokens=NEW)
    assert answers == texts(fresh, cut(uncut, (2,)))


def counting(limit, error):
    """A hook that raises once, in the given pass."""
    passes = []

    def hook(activation, hook):
        passes.append(len(activation))
        if len(passes) == limit:
            raise error

    return [("blocks.0.mlp.hook_post", hook)], passes


def test_an_interrupt_keeps_finished_answers_and_leaves_no_hook(fresh, uncut):
    before = reference.hooks(reference.settled(fresh))
    hooks, _ = counting(2 * NEW + 3, KeyboardInterrupt)
    with (
        fresh.hooks(fwd_hooks=hooks),
        pytest.raises(cna_lens.GenerationInterrupted, match="2 of 6 answers") as interrupt,
    ):
        cna_lens.generate(fresh, PROMPTS, max_new_tokens=NEW, batch_size=1)
    expected = texts(fresh, cut(uncut, (2,)))
    # The shortest prompts are answered first.
    assert interrupt.value.finished == [None, expected[1], None, None, expected[4], None]
    assert isinstance(interrupt.value, KeyboardInterrupt)
    assert reference.hooks(fresh) == before


@pytest.mark.usefixtures("in_one_pass")
def test_an_interrupt_within_a_batch_keeps_the_answers_that_had_ended(fresh, uncut):
    stops = some_stops(uncut)
    fresh.original_model.generation_config.eos_token_id = list(stops)
    hooks, _ = counting(NEW, KeyboardInterrupt)
    with (
        fresh.hooks(fwd_hooks=hooks),
        pytest.raises(cna_lens.GenerationInterrupted) as interrupt,
    ):
        cna_lens.generate(fresh, PROMPTS, max_new_tokens=NEW, batch_size=6)
    answers = cut(uncut, stops)
    assert interrupt.value.finished == [
        text if len(answer) < NEW else None
        for answer, text in zip(answers, texts(fresh, answers), strict=True)
    ]


def test_an_interrupt_while_steering_restores_the_weights(llama):
    circuit = cna_lens.Circuit((cna_lens.Neuron(0, 2),), (1.0,), cna_lens.Layout((tiny.WIDTH,) * 2))
    before = reference.weights(llama)
    hooks, _ = counting(3, KeyboardInterrupt)
    with (
        pytest.raises(cna_lens.GenerationInterrupted),
        llama.hooks(fwd_hooks=hooks),
        cna_lens.steer(llama, circuit, 0.0, via="weights"),
    ):
        cna_lens.generate(llama, PROMPTS, max_new_tokens=NEW)
    assert reference.same_bits(before, reference.weights(llama))


@pytest.mark.filterwarnings("ignore:a batch of:cna_lens.CnaLensWarning")
@pytest.mark.parametrize("rows", [1, 2, 4])
def test_a_batch_that_does_not_fit_is_halved_until_it_does(llama, uncut, rows):
    tried = []

    def limited(activation, hook):
        tried.append(len(activation))
        if len(activation) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with (
        llama.hooks(fwd_hooks=[("blocks.1.mlp.hook_post", limited)]),
        pytest.warns(cna_lens.CnaLensWarning, match=r"a batch of 6 .* batch_size=3 spares you"),
    ):
        answers = cna_lens.generate(llama, PROMPTS, max_new_tokens=NEW, batch_size=6)
    assert answers == texts(llama, cut(uncut, (2,)))
    assert max(tried) == 6


@pytest.mark.filterwarnings("ignore:a batch of:cna_lens.CnaLensWarning")
@pytest.mark.usefixtures("in_one_pass")
@pytest.mark.parametrize("at", [2, 5, NEW])
def test_running_out_of_memory_midway_loses_no_answer(fresh, uncut, at):
    stops = some_stops(uncut)
    fresh.original_model.generation_config.eos_token_id = list(stops)
    hooks, passes = counting(at, torch.OutOfMemoryError("CUDA out of memory"))
    with fresh.hooks(fwd_hooks=hooks):
        answers = cna_lens.generate(fresh, PROMPTS, max_new_tokens=NEW, batch_size=6)
    assert answers == texts(fresh, cut(uncut, stops))
    # The first n - 1 of n passes succeed; their n - 1 tokens hold at most n - 2 and a stop.
    finished = sum(len(answer) <= at - 2 for answer in cut(uncut, stops))
    assert passes[at] == (6 - finished + 1) // 2


def test_a_single_prompt_that_does_not_fit_raises_and_so_does_any_other_error(llama):
    for error, message in (
        (torch.OutOfMemoryError("CUDA out of memory"), "CUDA"),
        (RuntimeError("a shape is wrong"), "a shape"),
    ):
        hooks, _ = counting(1, error)
        size = 1 if "CUDA" in message else 6
        with llama.hooks(fwd_hooks=hooks), pytest.raises(type(error), match=message):
            cna_lens.generate(llama, PROMPTS, max_new_tokens=NEW, batch_size=size)
