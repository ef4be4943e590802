"""Chat templates: their settings, and what they must not do to a prompt."""

import datetime
import json

import pytest
import tiny

import cna_lens
from cna_lens import ChatSettings, InputError, ablation
from cna_lens.models import encode

BARE = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"
USER, ASSISTANT = 62, 63
PARTS = (
    "{% for m in messages %}{{ m['role'] }} "
    "{% for part in m['content'] %}{{ part['text'] }} {% endfor %}{% endfor %}"
)
# Raises for a string, whose letters have no text.
STRICT_PARTS = PARTS.replace("part['text']", "part['text'] + ''")
CLOCK = "{{ strftime_now('w%y') }} " + BARE
OWN = cna_lens.ReasoningFormat("BEGIN", "END")
TOOL = {"type": "function", "function": {"name": "w30", "parameters": {}}}


def with_template(template):
    model = tiny.bridge("llama", chat=True)
    model.tokenizer.chat_template = template
    return model


def ids(model, *prompts, **options):
    return list(encode(model, list(prompts), **options).ids)


def test_options_reach_the_template():
    model = with_template(BARE + "{% if not enable_thinking | default(true) %}w20 w21{% endif %}")
    assert ids(model, "w5") == [(USER, 5)]
    off = ChatSettings(options={"enable_thinking": False})
    assert ids(model, "w5", chat=off) == [(USER, 5, 20, 21)]
    assert ids(model, [5, 6], chat=off) == [(5, 6)]


def test_an_option_that_the_template_does_not_read_is_refused():
    model = with_template(BARE + "{{ enable_thinking }}")
    with pytest.raises(InputError, match="does not read 'enable_thinkin', so that it would change"):
        ids(model, "w5", chat=ChatSettings(options={"enable_thinkin": False}))
    with pytest.raises(InputError, match="does not read 'tools'"):
        ids(model, "w5", chat=ChatSettings(tools=[TOOL]))


@pytest.mark.parametrize(
    "written",
    [
        "{# style #}",
        "{{ 'style' }}",
        "{% for style in messages %}{{ style.role }}{% endfor %}",
        "{% for m in messages %}{{ m.style }}{% endfor %}",
        "{% set style = 'w9' %}{{ style }}",
    ],
    ids=["comment", "text", "loop", "key", "its own"],
)
def test_a_name_that_stands_in_the_template_without_being_read_is_no_option(written):
    model = with_template(BARE + written)
    with pytest.raises(InputError, match="does not read 'style'"):
        ids(model, "w5", chat=ChatSettings(options={"style": "w9"}))


@pytest.mark.parametrize(
    "written",
    [
        "{% if style is defined %}{{ style }}{% endif %}",
        "{% set style = style | default('w8') %}{{ style }}",
        "{% macro shown() %}{{ style }}{% endmacro %}{{ shown() }}",
        "{% for m in messages %}{{ style }}{% break %}{% endfor %}",
        "{% generation %}{{ style }}{% endgeneration %}",
    ],
    ids=["defined", "default", "macro", "break", "generation"],
)
def test_an_option_may_be_read_anywhere_in_the_template(written):
    model = with_template(BARE + written)
    style = ChatSettings(options={"style": "w9"})
    assert ids(model, "w5", chat=style) == [(USER, 5, 9)]


def test_options_of_a_template_that_is_no_jinja_are_refused():
    model = with_template(BARE + "{% if %}")
    with pytest.raises(InputError, match="chat template of tiny-llama cannot be read"):
        ids(model, "w5", chat=ChatSettings(options={"style": "w9"}))


def test_tools_reach_the_template():
    model = with_template("{% for t in tools or [] %}{{ t.function.name }} {% endfor %}" + BARE)
    assert ids(model, "w5") == [(USER, 5)]
    assert ids(model, "w5", chat=ChatSettings(tools=[TOOL])) == [(30, USER, 5)]


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"options": {"tools": []}}, "options holds 'tools'"),
        ({"options": {"add_generation_prompt": False}}, "options holds 'add_generation_prompt'"),
        ({"options": {"a": {1, 2}}}, "options is .* expected values that JSON has"),
        ({"tools": [{"a": print}]}, "tools is .* expected values that JSON has"),
        ({"date": "2025-01-01"}, "date is '2025-01-01', expected a datetime.date"),
        ({"system": 3}, "system is 3, expected a string"),
        ({"options": None}, "options is None, expected values by the names"),
        ({"options": "enable_thinking"}, "options is 'enable_thinking', expected values by"),
        ({"options": {1: True}}, "options is {1: True}, expected values by the names"),
        ({"tools": None}, "tools is None, expected a list"),
        ({"tools": {"a": 1}}, "tools is {'a': 1}, expected a list"),
        ({"tools": ["a"]}, r"tools is \['a'\], expected a list"),
        ({"reasoning": "<t>"}, "reasoning is '<t>', expected a list of ReasoningFormat"),
        ({"reasoning": OWN}, "reasoning is ReasoningFormat.* expected a list of ReasoningFormat"),
    ],
)
def test_invalid_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        ChatSettings(**settings)


def test_settings_do_not_change_with_what_they_were_made_from():
    given = {"a": 1}
    settings = ChatSettings(options=given)
    given["a"] = 2
    assert settings.options == {"a": 1}


def test_a_system_message_comes_before_each_prompt():
    model = with_template(BARE.replace("{{ m['role'] }} ", ""))
    settings = ChatSettings(system="w30")
    message = {"role": "user", "content": "w6"}
    assert ids(model, "w5", [message], chat=settings) == [(30, 5), (30, 6)]
    own = [{"role": "system", "content": "w31"}, message]
    assert ids(model, own) == [(31, 6)]
    with pytest.raises(InputError, match=r"prompts\[1\] has a system message, and so have"):
        ids(model, "w5", own, chat=settings)


def test_settings_need_a_template(llama):
    with pytest.raises(InputError, match=r"chat=ChatSettings\(...\) needs a chat template"):
        ids(llama, "w5", chat=ChatSettings())


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages[0]['role'] }}", r"leaves out or changes what the user says in positive\[1\]"),
        (BARE.replace("m['content']", "m['content'] | replace('w7', 'w8')"), r"in positive\[1\]"),
        (
            "{% if 'w7' in messages[0]['content'] %}{{ raise_exception('no w7') }}{% endif %}"
            + BARE,
            r"positive\[1\] does not go through the chat template of tiny-llama: no w7; change",
        ),
        (BARE + "{{ missing.text }}", r"positive\[0\] does not go .* is undefined"),
    ],
    ids=["drops", "changes", "refuses", "fails"],
)
def test_a_template_that_does_not_take_a_prompt_names_it(template, message):
    model = with_template(template)
    prompts = ["w6", "w7"] if "messages[0]['role']" not in template else ["user", "w7"]
    with pytest.raises(InputError, match=message):
        encode(model, prompts, name="positive")


def test_a_template_that_refuses_a_role_names_the_prompt():
    refuses = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}"
    model = with_template(refuses + "{% endif %}" + BARE)
    with pytest.raises(InputError, match=r"prompts\[0\] .*: no system; .* roles: system, user"):
        ids(model, "w5", chat=ChatSettings(system="w30"))


def test_an_error_does_not_repeat_what_the_prompt_says():
    model = with_template("{{ messages[0]['role'] }} content")
    secret = [{"role": "user", "content": "w5"}, {"role": "assistant", "content": "w33 w34"}]
    with pytest.raises(InputError, match=r"prompts\[0\] does not go through") as raised:
        ids(model, secret)
    assert "w33" not in str(raised.value)


@pytest.mark.parametrize("template", [PARTS, STRICT_PARTS], ids=["silent", "strict"])
def test_a_template_that_wants_parts_says_so_and_gets_them(template):
    model = with_template(template)
    with pytest.raises(InputError, match=r"it takes content in parts: pass chat=ChatSettings\(par"):
        ids(model, "w5")
    parts = [{"type": "text", "text": "w5"}, {"type": "text", "text": "w6"}]
    message = {"role": "user", "content": parts}
    settings = ChatSettings(parts=True)
    assert ids(model, [message]) == ids(model, [message], chat=settings) == [(USER, 5, 6)]
    assert ids(model, "w5", chat=settings) == [(USER, 5)]
    begun = [message, {"role": "assistant", "content": "w7"}]
    assert ids(model, begun, chat=settings) == [(USER, 5, 6, ASSISTANT, 7)]


@pytest.mark.parametrize(
    "written", ["'w9 ' + m['content']", "m['content']", "m['content'] | tojson"]
)
def test_a_template_that_wants_strings_says_so(written):
    model = with_template(f"{{% for m in messages %}}{{{{ {written} }}}}{{% endfor %}}")
    with pytest.raises(InputError, match="it takes content as one string"):
        ids(model, "w5", chat=ChatSettings(parts=True))


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("content", [None, 5, [], ["w5"], [{"type": "image", "url": "x"}]])
def test_content_that_is_no_text_is_refused(content):
    with pytest.raises(InputError, match=r"prompts\[0\] has a message whose content is a"):
        ids(with_template(BARE), [{"role": "user", "content": content}])


def test_the_text_of_parts_is_the_request():
    parts = {"role": "user", "content": [{"type": "text", "text": "How do I boil potatoes?"}]}
    answer = "Put the potatoes into cold water. Boil them for twenty minutes."
    assert cna_lens.metrics.label([[parts]], [answer]).outcomes == ["compliance"]


def test_reasoning_of_an_earlier_turn_may_be_left_out():
    model = with_template(
        "{% for m in messages %}{{ m['content'].split('</think>')[-1] }} {% endfor %}"
    )
    turns = [
        {"role": "user", "content": "w5"},
        {"role": "assistant", "content": "<think>w30</think>w6"},
        {"role": "user", "content": "w7"},
    ]
    assert ids(model, turns) == [(5, 6, 7)]


def test_reasoning_between_own_markers_may_be_left_out_too():
    model = with_template("{% for m in messages %}{{ m['content'].split('END')[-1] }} {% endfor %}")
    turns = [
        {"role": "user", "content": "w5"},
        {"role": "assistant", "content": "BEGIN w30 END w6"},
        {"role": "user", "content": "w7"},
    ]
    assert ids(model, turns, chat=ChatSettings(reasoning=[OWN])) == [(5, 6, 7)]
    with pytest.raises(InputError, match="leaves out or changes what the assistant says"):
        ids(model, turns)


class Clock(datetime.datetime):
    today = (2031, 5, 6)

    @classmethod
    def now(cls, tz=None):
        return datetime.datetime(*cls.today, tzinfo=tz)


def test_the_date_of_a_template_does_not_pass(monkeypatch):
    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Clock)
    model = with_template(CLOCK)
    assert ids(model, "w5") == [(25, USER, 5)]
    other = ChatSettings(date=datetime.date(2031, 5, 6))
    assert ids(model, "w5", chat=other) == [(31, USER, 5)]
    text = model.tokenizer.apply_chat_template([{"role": "user", "content": "w5"}], tokenize=False)
    assert text.startswith("w31 ")


def test_a_comparison_goes_on_the_next_day(monkeypatch, tmp_path):
    model = with_template(CLOCK)
    layout = cna_lens.Layout((tiny.WIDTH,) * 2)
    circuit = cna_lens.Circuit((cna_lens.Neuron(1, 3),), (1.0,), layout)
    prompts = cna_lens.PromptSet("words", "to compare on", ("w5",), ("w6",))

    def compare(year, **settings):
        monkeypatch.setattr(Clock, "today", (year, 5, 6))
        monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Clock)
        return cna_lens.compare(
            model,
            [ablation(circuit)],
            prompts,
            [1.0],
            {},
            max_new_tokens=2,
            path=tmp_path / "comparison.jsonl",
            progress=False,
            **settings,
        )

    first = compare(2031)
    assert compare(2032).outcomes == first.outcomes
    with pytest.raises(InputError, match="holds a comparison with negative"):
        compare(2032, chat=ChatSettings(date=datetime.date(2032, 5, 6)))


def test_a_date_in_a_format_that_is_worked_out_is_refused():
    model = with_template("{% set f = '%y' %}{{ strftime_now(f) }} " + BARE)
    with pytest.raises(InputError, match="asks for today's date in a format that is no plain"):
        ids(model, "w5")
    # Token ids go through no template.
    assert len(cna_lens.generate(model, [[5, 6]], max_new_tokens=2)) == 1


def test_a_circuit_says_how_its_prompts_were_made():
    model = with_template(CLOCK + "{{ style }}" + "{% for t in tools or [] %}{% endfor %}")
    options = {"k": 1, "universal": None, "progress": False}
    plain = cna_lens.find_circuit(model, ["w5"], ["w6"], **options).provenance
    assert json.loads(plain.chat) == {"date": "2025-01-01"}
    settings = ChatSettings(system="w30", options={"style": "w9"}, tools=[TOOL])
    circuit = cna_lens.find_circuit(model, ["w5"], ["w6"], chat=settings, **options)
    record = json.loads(circuit.provenance.chat)
    assert record["options"] == {"style": "w9"}
    assert set(record) == {"date", "options", "system_sha256", "tools_sha256"}
    assert circuit.provenance.template_sha256 == plain.template_sha256
    assert "style" in str(circuit)


def test_the_settings_of_a_circuit_are_in_its_file(tmp_path):
    model = with_template(CLOCK)
    circuit = cna_lens.find_circuit(model, ["w5"], ["w6"], k=1, universal=None, progress=False)
    circuit.save(tmp_path / "circuit.json")
    assert cna_lens.Circuit.load(tmp_path / "circuit.json").provenance == circuit.provenance


def test_a_template_without_settings_is_not_recorded():
    model = with_template(BARE)
    assert encode(model, ["w5"]).chat is None
    assert encode(with_template(CLOCK), [[5]]).chat is None


def test_sets_that_were_put_into_the_template_otherwise_are_not_contrasted():
    model = with_template(BARE + "{{ style }}")
    positive = cna_lens.collect(model, ["w5"], chat=ChatSettings(options={"style": "w9"}))
    negative = cna_lens.collect(model, ["w6"])
    with pytest.raises(InputError, match="the two sets were collected differently"):
        cna_lens.rank(positive, negative)


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[0]['content'] }}",
        "{% for m in messages %}{{ m['content'] if m['role'] == 'user' else '' }}{% endfor %}",
        "{% if messages | length > 1 %}{{ raise_exception('one') }}{% endif %}" + BARE,
    ],
    ids=["first", "users", "one"],
)
def test_a_template_without_turns_of_the_assistant_can_be_answered(template):
    model = with_template(template)
    plain = with_template(BARE)
    (prompt,) = ids(model, "w5")
    assert cna_lens.generate(model, ["w5"], max_new_tokens=3) == cna_lens.generate(
        plain, [list(prompt)], max_new_tokens=3
    )
    begun = [{"role": "user", "content": "w5"}, {"role": "assistant", "content": "w7"}]
    with pytest.raises(InputError, match=r"prompts\[0\]"):
        ids(model, begun)


def test_the_end_of_a_turn_is_found_in_parts_too():
    from cna_lens.models.running.generation_settings import end_of_turn_ids

    model = with_template(PARTS + "w20")
    model.tokenizer.add_special_tokens({"additional_special_tokens": ["w20"]})
    assert end_of_turn_ids(model) == {2, 20}


def test_one_of_several_templates_is_needed():
    model = with_template({"short": BARE, "long": BARE})
    with pytest.raises(InputError, match="tiny-llama has no single chat template"):
        ids(model, "w5")
    model.tokenizer.chat_template = {"default": BARE, "long": BARE}
    assert ids(model, "w5") == [(USER, 5)]


def test_a_comparison_measures_with_the_settings():
    model = with_template(BARE + "{{ style }}")
    settings = ChatSettings(options={"style": "w9"})
    layout = cna_lens.Layout((tiny.WIDTH,) * 2)
    circuit = cna_lens.Circuit((cna_lens.Neuron(1, 3),), (1.0,), layout)
    prompts = cna_lens.PromptSet("words", "to compare on", ("w5", "w7"), ("w6",))

    def lengths(model, prompts):
        return [float(len(prompt)) for prompt in prompts]

    table = cna_lens.compare(
        model,
        [ablation(circuit)],
        prompts,
        [1.0],
        {"length": lengths},
        max_new_tokens=4,
        chat=settings,
        progress=False,
    )
    assert table.outcomes[0].metrics["length"] == (3.0, 3.0)
    answers = cna_lens.generate(model, ["w6"], max_new_tokens=4, chat=settings)
    (kl,) = cna_lens.metrics.kl_per_token(
        model, lambda: ablation(circuit).at(model, 1.0), ["w6"], answers, chat=settings
    )
    assert table.outcomes[1].kl_per_token == (pytest.approx(kl),)
