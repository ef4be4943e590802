import io
import json

import pytest

from cna_lens import InputError, read_prompts

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def lines(*rows):
    return "\n".join(json.dumps(row) for row in rows)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.txt", "One, two?\n\n  Größe vier.  \n"),
        ("p.txt", "One, two?\r\nGröße vier."),
        ("p.jsonl", lines("One, two?", "Größe vier.")),
        ("p.jsonl", lines({"prompt": "One, two?", "id": 1}, {"prompt": "Größe vier.", "id": 2})),
        ("p.jsonl", lines({"text": "One, two?"}, {"text": "Größe vier."}) + "\n\n"),
        ("p.jsonl", lines("One, two?", {"prompt": "Größe vier."})),
        ("p.csv", 'prompt,label\n"One, two?",x\nGröße vier.,y\n'),
        ("p.csv", 'label,prompt\nx,"One, two?"\ny,Größe vier.\n'),
        ("p.csv", 'question\n"One, two?"\nGröße vier.\n'),
        ("p.csv", b"\xef\xbb\xbf" + 'prompt,label\r\n"One, two?",x\r\nGröße vier.,y'.encode()),
        ("p.txt", b"\xef\xbb\xbf" + "One, two?\r\nGröße vier.".encode()),
        ("p.jsonl", b"\xef\xbb\xbf" + lines("One, two?", "Größe vier.").encode()),
        ("P.TXT", "One, two?\nGröße vier."),
    ],
    ids=[
        "txt",
        "txt with CRLF",
        "jsonl of strings",
        "jsonl of objects",
        "jsonl with one key",
        "jsonl of both",
        "csv",
        "csv with the prompt last",
        "csv with one column",
        "csv as Excel writes it",
        "txt with a byte order mark",
        "jsonl with a byte order mark",
        "upper-case ending",
    ],
)
def test_prompts_are_read_in_order_whatever_the_file(write, name, content):
    path = write(name, content)
    assert read_prompts(path) == read_prompts(str(path)) == ["One, two?", "Größe vier."]


def test_a_named_column_is_read_even_beside_a_prompt_column(write):
    rows = [{"prompt": "a", "goal": "b"}, {"prompt": "c", "goal": "d"}]
    assert read_prompts(write("p.jsonl", lines(*rows)), column="goal") == ["b", "d"]
    assert read_prompts(write("p.csv", "prompt,goal\na,b\nc,d"), column="goal") == ["b", "d"]


def test_the_column_is_chosen_for_all_rows(write):
    rows = {"prompt": "a"}, {"text": "b"}, {"label": "c"}
    with pytest.raises(InputError, match=r"p\.jsonl has no column 'prompt'; it has: text"):
        read_prompts(write("p.jsonl", lines(*rows)))
    path = write("p.jsonl", lines({"text": "a"}, "b", {"text": "c", "prompt": "d"}))
    assert read_prompts(path) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.csv", 'prompt,id\na,1\n" ",2\nc,3\n'),
        ("p.jsonl", lines("a", "", "c")),
        ("p.jsonl", lines({"prompt": "a"}, {"prompt": []}, {"prompt": "c"})),
        ("p.json", json.dumps([{"prompt": "a"}, {"prompt": ""}])),
    ],
)
def test_an_empty_prompt_in_a_table_is_refused_since_it_may_be_one_of_a_pair(write, name, content):
    with pytest.raises(InputError, match=r"p\.\w+ has an empty prompt in row 2; fill it in"):
        read_prompts(write(name, content))


def test_messages_that_are_written_as_text_are_no_prompt(write):
    path = write("p.tsv", f"id\tmessages\n1\t{json.dumps(MESSAGES).replace(chr(34), chr(39))}\n")
    with pytest.raises(InputError, match=r"p\.tsv holds text under 'messages', expected lists of"):
        read_prompts(path)
    assert read_prompts(path, column="messages")[0].startswith("[{'role'")


def test_a_column_that_a_data_frame_has_twice_is_refused():
    import pandas as pd

    table = pd.DataFrame([["a", "b"]], columns=["prompt", "prompt"])
    with pytest.raises(InputError, match="the DataFrame has more than one column 'prompt'"):
        read_prompts(table)


def test_chat_messages_are_read_from_the_key_messages(write):
    path = write("p.jsonl", lines({"id": 7, "messages": MESSAGES}))
    assert read_prompts(path) == [MESSAGES]


def test_a_prompt_in_quotes_may_span_lines(write):
    assert read_prompts(write("p.csv", 'prompt\n"one\ntwo"\n')) == ["one\ntwo"]


def test_a_paragraph_separator_is_not_a_new_line_in_json_lines(write):
    path = write("p.jsonl", json.dumps("one\u2028two", ensure_ascii=False))
    assert read_prompts(path) == ["one\u2028two"]


def test_an_unquoted_comma_does_not_cut_a_prompt_short(write):
    with pytest.raises(InputError, match=r"p\.csv, line 3.*quotes"):
        read_prompts(write("p.csv", "prompt\nHello.\nWell, how are you?\n"))


@pytest.mark.parametrize(
    ("name", "content", "column", "telling"),
    [
        ("p.txt", "", None, "holds no prompts"),
        ("p.txt", " \n\t\n", None, "holds no prompts"),
        ("p.jsonl", "", None, "holds no prompts"),
        ("p.csv", "prompt\n", None, "holds no prompts"),
        ("p.jsonl", '"a"\n{"prompt": \n', None, r"p\.jsonl, line 2, is not JSON"),
        ("p.jsonl", '"a"\n\n\nplain\n', None, r"p\.jsonl, line 4, is not JSON"),
        ("p.jsonl", "5", None, "holds 5, expected strings or objects"),
        ("p.jsonl", '["a"]', None, "expected strings or objects"),
        ("p.jsonl", lines({"a": "x", "b": "y"}), None, "has no column 'prompt'; it has: a, b"),
        ("p.jsonl", lines({"a": "x", "b": "y"}), "c", "has no column 'c'; it has: a, b"),
        ("p.csv", "a,b\nx,y\n", None, "has no column 'prompt'; it has: a, b"),
        ("p.csv", "a,b\nx,y\n", "c", "has no column 'c'; it has: a, b"),
        ("p.txt", b"caf\xe9", None, r"p\.txt cannot be read as \.txt.*codec"),
        ("p.csv", b"prompt\ncaf\xe9", None, r"p\.csv cannot be read as \.csv.*codec"),
        ("p.jsonl", b'"caf\xe9"', None, r"p\.jsonl cannot be read as \.jsonl.*codec"),
        ("p.csv", "prompt\n" + "x" * 200_000, None, r"cannot be read as CSV.*field"),
    ],
)
def test_a_file_without_valid_prompts_is_refused(write, name, content, column, telling):
    path = write(name, content)
    with pytest.raises(InputError, match=telling) as raised:
        read_prompts(path, column=column)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("value", [5, 1.5, True, {"text": "x"}, ["x"]])
@pytest.mark.usefixtures("without_type_checks")
def test_a_prompt_that_is_not_text_is_refused(write, value):
    path = write("p.jsonl", lines({"prompt": value}))
    with pytest.raises(InputError, match=r"p\.jsonl"):
        read_prompts(path)


@pytest.mark.parametrize("ending", [".txt", ".jsonl", ".csv"])
def test_a_missing_file_is_named(tmp_path, ending):
    with pytest.raises(InputError, match=rf"nowhere\{ending} does not exist"):
        read_prompts(tmp_path / f"nowhere{ending}")


# Never misread ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.json", json.dumps(["One, two?", "Größe vier."])),
        ("p.json", json.dumps([{"prompt": "One, two?", "id": 1}, {"prompt": "Größe vier."}])),
        ("p.tsv", "prompt\tlabel\nOne, two?\tx\nGröße vier.\ty\n"),
    ],
    ids=["json of strings", "json of objects", "tsv"],
)
def test_other_files_are_read_too(write, name, content):
    assert read_prompts(write(name, content)) == ["One, two?", "Größe vier."]


def test_a_parquet_file_is_read(tmp_path):
    import pandas as pd

    path = tmp_path / "p.parquet"
    pd.DataFrame({"id": [1, 2], "prompt": ["One, two?", "Größe vier."]}).to_parquet(path)
    assert read_prompts(path) == ["One, two?", "Größe vier."]
    pd.DataFrame({"messages": [MESSAGES]}).to_parquet(path)
    assert read_prompts(path) == [MESSAGES]
    path.write_text("no table")
    with pytest.raises(InputError, match=r"p\.parquet cannot be read as \.parquet"):
        read_prompts(path)


def test_standard_input_has_one_prompt_a_line(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("One, two?\n\nGröße vier.\n"))
    assert read_prompts("-") == ["One, two?", "Größe vier."]
    piped = b"\xef\xbb\xbf" + "One, two?\r\n\rGröße vier.".encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(piped), "latin-1"))
    assert read_prompts("-") == ["One, two?", "Größe vier."]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9"), "utf-8"))
    with pytest.raises(InputError, match="standard input cannot be read as UTF-8"):
        read_prompts("-")
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    with pytest.raises(InputError, match="standard input holds no prompts"):
        read_prompts("-")


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
@pytest.mark.parametrize("ending", [".txt", ".jsonl", ".csv"])
def test_only_line_breaks_end_a_line(write, separator, ending):
    text = f"one{separator}two"
    content = {
        ".txt": f"{text}\nthree\n",
        ".jsonl": f"{json.dumps(text, ensure_ascii=False)}\n{json.dumps('three')}\n",
        ".csv": f"prompt,id\n{text},1\nthree,2\n",
    }
    assert read_prompts(write(f"p{ending}", content[ending])) == [text, "three"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("prompt;id\nHello.;1\n", r"seem to be separated by ';'.*separator=';'"),
        ("prompt\tid\nHello.\t1\n", r"seem to be separated by '\\t'"),
        ("How are you?\nAnd you?\n", r"first line is 'How are you\?': a header, or the first"),
        ("你好世界\n再见\n", "first line is '你好世界'"),
        ('prompt,id\n"How are you?,1\nAnd you?,2\n', r"line 3, cannot be read as CSV.*end of data"),
        ('prompt,id\n"How" are you?,1\n', r"line 2, cannot be read as CSV"),
        ("prompt,id\nWell, how are you?,1\n", "line 2, has 3 fields and the header 2"),
        ("prompt,id\nHow are you?\n", "line 2, has 1 fields and the header 2"),
        ("prompt,prompt\na,b\n", "more than one column 'prompt'"),
    ],
    ids=[
        *("semicolons", "tabs", "no header", "no header in Chinese", "an open quote"),
        *("text after a quote", "a long row", "a short row", "a column twice"),
    ],
)
def test_a_table_is_never_misread_in_silence(write, content, said):
    with pytest.raises(InputError, match=said) as raised:
        read_prompts(write("p.csv", content))
    assert "p.csv" in str(raised.value)


def test_the_only_column_may_be_named_and_the_separator_given(write):
    path = write("p.csv", "How are you?\nAnd you?\n")
    assert read_prompts(path, column="How are you?") == ["And you?"]
    path = write("p.csv", "id;prompt\n1;Well, how are you?\n")
    assert read_prompts(path, separator=";") == ["Well, how are you?"]


@pytest.mark.parametrize(
    ("name", "content", "given", "said"),
    [
        ("p.txt", "a", {"column": "x"}, "column is 'x', but .*p.txt has none"),
        ("p.txt", "a", {"separator": ";"}, "separator is ';', but .*p.txt has none"),
        ("p.csv", "prompt\na", {"split": "train"}, "split is 'train', but .*p.csv has none"),
        ("p.jsonl", '"a"', {"config": "x"}, "config is 'x', but .*p.jsonl has none"),
        ("p.csv", "prompt\na", {"separator": ";;"}, "separator is ';;', expected one character"),
        ("p.json", '{"prompt": "a"}', {}, "p.json holds one dict, expected a list"),
        ("p.json", '["a"', {}, "p.json is not JSON"),
        ("p.jsonl", '"a"', {"column": "goal"}, "column is 'goal', but .* without columns"),
    ],
)
def test_an_argument_that_the_source_cannot_use_is_refused(write, name, content, given, said):
    with pytest.raises(InputError, match=said):
        read_prompts(write(name, content), **given)
