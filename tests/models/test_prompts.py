import hashlib

import datasets
import numpy as np
import pandas as pd
import pytest
import tiny
import torch

import cna_lens
from cna_lens.models import encode

# Starts with the beginning-of-sequence token, like the templates of Llama and Gemma.
TEMPLATE = (
    "w1 {% for m in messages %}w3 {{ m['role'] }} {{ m['content'] }} w2 {% endfor %}"
    "{% if add_generation_prompt %}w3 assistant{% endif %}"
)
USER, ASSISTANT = 62, 63


@pytest.fixture
def chatty():
    model = tiny.bridge("llama", chat=True)
    model.tokenizer.chat_template = TEMPLATE
    return model


def ids(model, *prompts, **options):
    return list(encode(model, list(prompts), **options).ids)


def test_every_word_of_the_tests_is_a_separate_token(model):
    words = [f"w{token}" for token in range(62)]
    for text, expected in [
        *((word, [token]) for token, word in enumerate(words)),
        (" ".join(words), list(range(62))),
    ]:
        assert model.tokenizer(text, add_special_tokens=False)["input_ids"] == expected


@pytest.mark.parametrize("text", ["w5", "w5 w6 w7", "w30 unknown w31"])
def test_plain_strings_are_encoded_as_by_the_model_itself(model, text):
    assert ids(model, text) == [tuple(model.to_tokens(text)[0].tolist())]


def test_a_plain_string_with_a_beginning_gets_no_second_one(model):
    with_its_own = ids(model, "w1 w5 w6")
    assert with_its_own == [(1, 5, 6)]
    assert ids(model, "w5 w6")[0] in {(1, 5, 6), (5, 6)}


def test_only_a_doubled_beginning_is_removed(llama):
    assert ids(llama, "w5 w1 w1 w6") == [(1, 5, 1, 1, 6)]


def test_a_template_with_a_beginning_gets_no_second_one(chatty):
    assert ids(chatty, "w5 w6") == [(1, 3, USER, 5, 6, 2, 3, ASSISTANT)]


def test_a_template_without_a_beginning_gets_none(chatty):
    chatty.tokenizer.chat_template = TEMPLATE.removeprefix("w1 ")
    assert ids(chatty, "w5 w6") == [(3, USER, 5, 6, 2, 3, ASSISTANT)]


def test_strings_messages_token_ids_and_tensors_are_encoded_alike(chatty):
    message = [{"role": "user", "content": "w5 w6"}]
    tokens = [1, 3, USER, 5, 6, 2, 3, ASSISTANT]
    encoded = encode(chatty, ["w5 w6", message, tokens, tuple(tokens), torch.tensor(tokens)])
    assert set(encoded.ids) == {tuple(tokens)}
    assert encoded.record.count == 5


@pytest.mark.usefixtures("without_type_checks")
def test_token_ids_may_be_numbers_of_numpy(llama):
    given = encode(llama, [list(np.array([5, 6])), (np.int32(7), 8)])
    assert given == encode(llama, [[5, 6], [7, 8]])
    assert {type(token) for prompt in given.ids for token in prompt} == {int}


def test_several_messages_keep_their_order(chatty):
    system = {"role": "user", "content": "w30"}
    answer = {"role": "assistant", "content": "w31"}
    question = {"role": "user", "content": "w32"}
    assert ids(chatty, [system, answer, question]) == [
        (1, 3, USER, 30, 2, 3, ASSISTANT, 31, 2, 3, USER, 32, 2, 3, ASSISTANT)
    ]


def test_messages_that_end_with_the_assistant_are_continued(chatty):
    begun = [{"role": "user", "content": "w5"}, {"role": "assistant", "content": "w7 w8"}]
    assert ids(chatty, begun) == [(1, 3, USER, 5, 2, 3, ASSISTANT, 7, 8)]


def test_chat_false_leaves_strings_plain_and_puts_messages_into_the_template(chatty):
    message = [{"role": "user", "content": "w5"}]
    plain, templated = ids(chatty, "w5", message, chat=False)
    assert plain == (1, 5)
    assert templated == (1, 3, USER, 5, 2, 3, ASSISTANT)


def test_auto_uses_the_template_where_there_is_one(chatty, llama):
    assert ids(chatty, "w5") == ids(chatty, "w5", chat=True) != ids(chatty, "w5", chat=False)
    assert ids(llama, "w5") == ids(llama, "w5", chat=False)


def test_the_hash_of_the_template_is_recorded_only_where_it_was_used(chatty):
    expected = hashlib.sha256(TEMPLATE.encode()).hexdigest()
    message = [{"role": "user", "content": "w5"}]
    assert encode(chatty, ["w5"]).template_sha256 == expected
    assert encode(chatty, [message], chat=False).template_sha256 == expected
    assert encode(chatty, [[5, 6], message]).template_sha256 == expected
    assert encode(chatty, ["w5"], chat=False).template_sha256 is None
    assert encode(chatty, [[5, 6]]).template_sha256 is None


def test_the_record_tells_prompts_apart_by_their_tokens(llama):
    record = encode(llama, ["w5", "w6 w7"]).record
    assert record.count == 2
    assert encode(llama, [[1, 5], [1, 6, 7]]).record == record
    for others in (["w5", "w6 w8"], ["w6 w7", "w5"], ["w5 w6", "w7"]):
        assert encode(llama, others).record != record


def test_a_circuit_found_with_the_template_records_it(chatty):
    options = {"k": 1, "universal": None, "progress": False}
    with_template = cna_lens.find_circuit(chatty, ["w5"], ["w6"], **options)
    without = cna_lens.find_circuit(chatty, ["w5"], ["w6"], chat=False, **options)
    assert with_template.provenance.template_sha256 is not None
    assert without.provenance.template_sha256 is None


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([{"role": "user"}], "expected the keys 'role' and 'content'"),
        ([{"content": "w5"}], "expected the keys 'role' and 'content'"),
        ([{"role": "user", "content": "w5"}, "w6"], r"prompts\[0\] is a list"),
        (torch.tensor([[5, 6]]), r"prompts\[0\] is a Tensor"),
        (torch.tensor([5.0]), r"prompts\[0\] is a Tensor"),
        (torch.tensor(5), r"prompts\[0\] is a Tensor"),
        (b"w5", r"prompts\[0\] is a bytes"),
        (bytearray(b"w5"), r"prompts\[0\] is a bytearray"),
        ([5, True], r"prompts\[0\] is a list"),
        ([5, np.True_], r"prompts\[0\] is a list"),
        ([5, 6.0], r"prompts\[0\] is a list"),
    ],
)
def test_invalid_prompts_are_refused(chatty, prompt, message):
    with pytest.raises(cna_lens.InputError, match=message):
        ids(chatty, prompt)


def test_a_string_needs_a_tokenizer_and_token_ids_do_not():
    model = tiny.bridge("llama")
    model.tokenizer = None
    assert ids(model, [5, 6]) == [(5, 6)]
    with pytest.raises(cna_lens.InputError, match="no tokenizer; pass token ids"):
        ids(model, "w5")


def test_an_empty_string_is_refused_where_it_has_no_tokens(models):
    with pytest.raises(cna_lens.InputError, match=r"prompts\[0\] has no tokens"):
        ids(models["qwen2"], "")


def test_a_column_of_a_data_set_is_prompts(llama):
    texts = ["w5 w6", "w7"]
    column = datasets.Dataset.from_dict({"prompt": texts})["prompt"]
    assert encode(llama, column) == encode(llama, texts)


def test_a_table_is_no_list_of_prompts_and_the_error_says_what_makes_one(
    llama, without_type_checks
):
    table = pd.DataFrame({"prompt": ["w5 w6"]})
    for given in (table, table["prompt"], datasets.Dataset.from_pandas(table)):
        with pytest.raises(cna_lens.InputError, match=r"pass a list of prompts.*read_prompts"):
            encode(llama, given)
        assert encode(llama, cna_lens.read_prompts(given)) == encode(llama, ["w5 w6"])
