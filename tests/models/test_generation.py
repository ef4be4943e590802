import numpy as np
import pytest
import reference
import strategies
import tiny
import torch
from hypothesis import given, settings, strategies as st

import cna_lens
from cna_lens.models.running.generation import finished_answers
from cna_lens.models.running.request import Request

PROMPTS = [[5, 6, 7, 8, 9], [30, 31], [40, 41, 42], [50, 51, 52, 53, 54, 55, 56], [33]]


def slow(model, prompts, new, stops=(2,), hf=None):
    """Answer each prompt alone in plain Hugging Face, without a cache."""
    hf = hf or tiny.plain(model.cfg.model_name.removeprefix("tiny-"))
    return [
        model.tokenizer.decode(reference.greedy(hf, ids, new, stops), skip_special_tokens=True)
        for ids in prompts
    ]


# The same examples each time: in rare draws, two tokens are equally likely but for rounding.
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    strategies.families,
    strategies.prompt_sets(max_length=6),
    st.sampled_from(["auto", 1, 2, 100]),
    st.integers(1, 6),
    st.booleans(),
)
def test_batched_answers_equal_those_of_one_prompt_at_a_time(
    models, family, prompts, batch_size, new, share_prefix
):
    answers = cna_lens.generate(
        models[family],
        prompts,
        max_new_tokens=new,
        batch_size=batch_size,
        share_prefix=share_prefix,
    )
    assert answers == slow(models[family], prompts, new)


@pytest.mark.parametrize("share_prefix", [True, False])
@pytest.mark.parametrize("longest", [2, 12], ids=["alike", "unlike"])
def test_an_answer_beyond_a_sliding_window_is_the_same_in_a_batch(models, share_prefix, longest):
    window = models["gemma3"].original_model.config.sliding_window
    prompts = [[*range(33, 38), *range(5, 5 + n), 40 + n] for n in (1, longest // 2, longest)]
    answers = cna_lens.generate(
        models["gemma3"], prompts, max_new_tokens=2 * window, share_prefix=share_prefix
    )
    assert answers == slow(models["gemma3"], prompts, 2 * window)


def test_the_chat_template_is_shared_and_changes_no_answer(chat_model):
    texts = ["w5 w6", "w7", "w30 w31 w32 w33"]
    prompts = cna_lens.models.prompts.encoding.encode(chat_model, texts).ids
    assert min(map(len, prompts)) > 10
    for share_prefix in (True, False):
        answers = cna_lens.generate(chat_model, texts, max_new_tokens=8, share_prefix=share_prefix)
        assert answers == slow(chat_model, prompts, 8)
    assert cna_lens.generate(chat_model, texts, max_new_tokens=8, chat=False) != answers


@pytest.mark.parametrize("share_prefix", [True, False])
def test_a_prompt_that_begins_all_others_is_answered_too(model, share_prefix):
    start = [*range(33, 41)]
    prompts = [start, [*start, 5], start, [*start, 6, 7, 8]]
    answers = cna_lens.generate(model, prompts, max_new_tokens=5, share_prefix=share_prefix)
    assert answers == slow(model, prompts, 5)


@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        *((family, torch.float32) for family in tiny.FAMILIES),
        ("llama", torch.bfloat16),
        ("llama", torch.float16),
    ],
)
def test_a_greedy_answer_equals_that_of_hugging_face(family, dtype):
    model = tiny.bridge(family, dtype=dtype)
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        theirs = model.original_model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=10, do_sample=False
        )[0, len(prompt) :]
        ours = cna_lens.generate(model, [prompt], max_new_tokens=10)
        assert ours == [model.tokenizer.decode(theirs, skip_special_tokens=True)]


def test_answers_come_in_the_order_of_the_prompts(model):
    answers = cna_lens.generate(model, PROMPTS, max_new_tokens=5, batch_size=2)
    assert len(set(answers)) > 1
    assert cna_lens.generate(model, PROMPTS[::-1], max_new_tokens=5, batch_size=2) == answers[::-1]


def test_generating_leaves_no_hook_and_no_weight_changed(model):
    before = reference.hooks(reference.settled(model)), reference.weights(model)
    cna_lens.generate(model, PROMPTS, max_new_tokens=2)
    assert reference.hooks(model) == before[0]
    assert reference.same_bits(before[1], reference.weights(model))


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_new_tokens": -3}, "max_new_tokens is -3"),
        ({"max_new_tokens": 2.5}, r"max_new_tokens is 2\.5, expected a whole number"),
        ({"max_new_tokens": float("nan")}, "max_new_tokens is nan"),
        ({"max_new_tokens": True}, "max_new_tokens is True"),
        ({"max_new_tokens": "5"}, "max_new_tokens is '5'"),
        ({"temperature": "1"}, "temperature is '1'"),
        ({"temperature": None}, "temperature is None"),
        ({"temperature": True}, "temperature is True"),
        ({"top_p": None}, "top_p is None"),
        ({"seed": None}, "seed is None, expected a whole number"),
        ({"seed": 1.0}, r"seed is 1\.0"),
        ({"seed": True}, "seed is True"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": True}, "batch_size is True, expected 'auto' or a whole number"),
        ({"batch_size": 2.0}, r"batch_size is 2\.0"),
        ({"batch_size": "all"}, "batch_size is 'all'"),
        ({"chat": True}, "chat=True needs a chat template"),
    ],
)
def test_invalid_settings_are_refused(llama, options, message):
    with pytest.raises(cna_lens.InputError, match=message):
        cna_lens.generate(llama, PROMPTS, **options)


@pytest.mark.usefixtures("without_type_checks")
def test_numbers_may_be_those_of_numpy(llama):
    four, half = np.int64(4), np.float32(0.5)
    given = {"max_new_tokens": four, "batch_size": four, "seed": four, "temperature": half}
    expected = {"max_new_tokens": 4, "batch_size": 4, "seed": 4, "temperature": 0.5}
    answers = cna_lens.generate(llama, PROMPTS, **given, top_p=np.float64(0.5))
    assert answers == cna_lens.generate(llama, PROMPTS, **expected, top_p=0.5)


def test_a_missing_tokenizer_is_seen_before_anything_is_generated(monkeypatch):
    model = tiny.bridge("llama")
    model.tokenizer = None
    monkeypatch.setattr(Request, "answers", pytest.fail)
    for answer, asked in (
        (cna_lens.generate, PROMPTS),
        (finished_answers, PROMPTS),
        (cna_lens.models.stream, PROMPTS[0]),
    ):
        with pytest.raises(cna_lens.InputError, match=r"set model\.tokenizer"):
            answer(model, asked)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("prompts", "message"), [([], "prompts is empty"), ("w5", "prompts is one string")]
)
def test_invalid_prompts_are_refused(llama, prompts, message):
    with pytest.raises(cna_lens.InputError, match=message):
        cna_lens.generate(llama, prompts)


@pytest.mark.usefixtures("without_type_checks")
def test_a_plain_hugging_face_model_is_refused():
    with pytest.raises(cna_lens.ModelError, match="not a TransformerLens model"):
        cna_lens.generate(tiny.hugging_face("llama"), PROMPTS)


def test_an_answer_beyond_the_context_is_refused(models):
    # GPT-2 learns a vector for each position, and has none after the last.
    with pytest.raises(cna_lens.InputError, match="256"):
        cna_lens.generate(models["gpt2"], [[5] * 250], max_new_tokens=20)
