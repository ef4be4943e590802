"""Texts of tokens: each character that a reader sees stands whole at its first token."""

from types import SimpleNamespace

import pytest
from hub_mirror import byte_tokenizer
from hypothesis import given, strategies as st
from tokenizers import Tokenizer, decoders, normalizers
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from cna_lens.models.tokens.token_texts import lone_token_texts, token_texts

CHARACTERS = {
    "Chinese": ["你", "好", "世", "界"],
    "emoji": ["😀", "👍🏽", "👩‍👩‍👧", "🇩🇪", "🇫🇷", "❤️", "a"],
    "combining marks": ["e\u0301", "n\u0303\u0323", "x"],
    "Devanagari": ["न", "म", "स्ते"],
    "Hangul in parts": ["\u1112\u1161\u11ab", "\u1100\u1173\u11af"],
    "Arabic": list("مرحبا"),
    "Hebrew with points": ["שָׁ", "ל", "וֹ", "ם"],
    "line ends": ["a", "\r", "\n", "b"],
}


@pytest.fixture(autouse=True)
def _any_object_with_a_tokenizer_is_a_model(without_type_checks):
    pass


def model_of(tokenizer):
    return SimpleNamespace(tokenizer=tokenizer)


def byte_level(*merges):
    """A byte-level tokenizer that joins the given pairs of letters."""
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *("".join(pair) for pair in merges)]
    raw = Tokenizer(BPE({word: place for place, word in enumerate(words)}, merges=list(merges)))
    raw.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=raw)


def letters_of(text):
    """The letters that stand for the bytes of a text."""
    ((letters, _),) = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    return letters


def with_byte_fallback(*words):
    """A tokenizer as Llama's: a mark begins each word, and bytes spell what has no token."""
    alphabet = sorted({*"".join(words), "▁"})
    spelled = [f"<0x{byte:02X}>" for byte in range(256)]
    vocabulary = ["<unk>", "<s>", *spelled, *alphabet]
    raw = Tokenizer(
        BPE(
            {word: place for place, word in enumerate(vocabulary)},
            merges=[],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", unk_token="<unk>")


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("name", CHARACTERS)
def test_each_character_is_one_text_though_it_is_several_tokens(name):
    tokenizer = byte_level()
    characters = CHARACTERS[name]
    ids = ids_of(tokenizer, "".join(characters))
    assert len(ids) == len("".join(characters).encode())
    texts = token_texts(model_of(tokenizer), ids)
    assert [text for text in texts if text] == characters
    first = 0
    for character in characters:
        assert texts[first] == character
        first += len(character.encode())


@given(st.text(max_size=12))
def test_the_texts_of_any_tokens_joined_are_the_text(text):
    tokenizer = byte_level(tuple(letters_of("é")), tuple(letters_of(" a")))
    ids = ids_of(tokenizer, text)
    texts = token_texts(model_of(tokenizer), ids)
    assert len(texts) == len(ids)
    assert "".join(texts) == text


def test_a_token_across_two_characters_is_part_of_both():
    end, begin = letters_of("你")[-1], letters_of("好")[0]
    tokenizer = byte_level((end, begin))
    assert token_texts(model_of(tokenizer), ids_of(tokenizer, "x你好y")) == (
        *("x", "你好", "", "", "", "", "y"),
    )


def test_a_mark_moves_to_its_letter_and_leaves_the_rest_of_its_token():
    mark = tuple(letters_of("\u0301"))
    tokenizer = byte_level(mark, ("".join(mark), "t"))
    assert token_texts(model_of(tokenizer), ids_of(tokenizer, "e\u0301ta")) == ("e\u0301", "t", "a")


def test_bytes_that_spell_a_character_are_one_text():
    tokenizer = with_byte_fallback("ab")
    ids = [tokenizer.bos_token_id, *ids_of(tokenizer, "a 你 b")]
    texts = token_texts(model_of(tokenizer), ids)
    assert texts == ("<s>", " ", "a", " ", "你", "", "", " ", "b")


def test_tokens_that_form_no_character_are_written_as_bytes():
    tokenizer = byte_level((letters_of(" "), letters_of("你")[0]))
    whole = ids_of(tokenizer, " 你好")
    assert token_texts(model_of(tokenizer), whole) == (" 你", "", "", "好", "", "")
    assert token_texts(model_of(tokenizer), whole[:1]) == (" \\xe4",)
    assert token_texts(model_of(tokenizer), whole[1:]) == ("\\xbd", "\\xa0", "好", "", "")
    fallback = with_byte_fallback("a")
    ids = [*ids_of(fallback, "你")[1:3], *ids_of(fallback, "a")]
    assert token_texts(model_of(fallback), ids) == ("\\xe4", "\\xbd", " ", "a")


def test_the_replacement_character_itself_is_a_text():
    tokenizer = byte_level()
    ids = ids_of(tokenizer, "a\ufffdb")
    assert token_texts(model_of(tokenizer), ids) == ("a", "\ufffd", "", "", "b")
    joined = byte_level(*_chain(letters_of("\ufffd")))
    assert token_texts(model_of(joined), ids_of(joined, "\ufffdb")) == ("\ufffd", "b")


def _chain(letters):
    """Merges that make one token of all letters."""
    return [(letters[:place], letters[place]) for place in range(1, len(letters))]


def test_a_special_token_is_named_and_takes_no_mark():
    tokenizer = byte_tokenizer(chat=True)
    ids = [tokenizer.bos_token_id, *ids_of(tokenizer, "\u0301你")]
    texts = token_texts(model_of(tokenizer), ids)
    assert texts == ("<s>", "\u0301", "", "你", "", "")


def test_tokens_that_do_not_follow_each_other_are_texts_of_their_own():
    tokenizer = byte_level(*_chain(letters_of("你")))
    (whole,) = ids_of(tokenizer, "你")
    first, mark = ids_of(tokenizer, "\u0301")
    assert lone_token_texts(model_of(tokenizer), [first, mark, whole]) == ("\\xcc", "\\x81", "你")


def test_spaces_before_punctuation_stay():
    raw = Tokenizer(WordLevel({" ,": 0}, unk_token=" ,"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, clean_up_tokenization_spaces=True)
    assert tokenizer.decode([0]) == ","
    assert token_texts(model_of(tokenizer), [0]) == (" ,",)


def test_without_a_tokenizer_tokens_are_numbers():
    assert token_texts(model_of(None), [5, 6]) == lone_token_texts(model_of(None), [5, 6])
    assert token_texts(model_of(None), [5, 6]) == ("5", "6")


@pytest.mark.parametrize(
    "tokenizer", [byte_level, with_byte_fallback], ids=["byte-level", "fallback"]
)
def test_a_token_beyond_the_tokenizers_vocabulary_is_its_number(tokenizer):
    made = tokenizer()
    beyond = len(made) + 5
    assert lone_token_texts(model_of(made), [beyond]) == (str(beyond),)
    assert token_texts(model_of(made), [*ids_of(made, "ab"), beyond])[-1] == str(beyond)
