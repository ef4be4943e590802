"""The loop of `play`, with keys typed into a pipe and output read back from a console."""

import io
import json
import signal
from itertools import pairwise
from typing import get_args

import pytest
from prompt_toolkit import PromptSession
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from rich.console import Console

import cna_lens
from cna_lens import Circuit, InputError, Layout, Neuron, generate, steer, stream
from cna_lens.cli.play import player as player_module
from cna_lens.cli.play.commands import HELP, read_command
from cna_lens.cli.play.exchange import Exchange, Written
from cna_lens.cli.play.loop import Loop
from cna_lens.cli.play.player import Player
from cna_lens.cli.play.screen import exchange_table, label
from cna_lens.cli.play.settings import SCOPES, Settings
from cna_lens.metrics import refusal_log_odds
from cna_lens.models import Positions
from cna_lens.steering import matched_random

CIRCUIT = Circuit((Neuron(1, 3), Neuron(0, 2), Neuron(1, 7)), (2.5, -1.0, 0.5), Layout((24, 24)))
STRONGEST = Circuit((Neuron(1, 3),), (2.5,), CIRCUIT.layout)
DISCOVERY = ["w5 w6", "w7"], ["w8 w9", "w3"]
OFF = Settings(-20.0, k=3, length=6)


@pytest.fixture
def player(llama):
    return Player(llama, CIRCUIT, DISCOVERY)


class Typed:
    """A session at a terminal: type keys, and get the screen."""

    def __init__(self, player, settings=OFF):
        self.output = io.StringIO()
        console = Console(file=self.output, width=100, force_terminal=False)
        self.loop = Loop(player, settings, console)

    def __call__(self, keys):
        with create_pipe_input() as pipe:
            pipe.send_text(f"{keys}\x04")
            session = PromptSession(input=pipe, output=DummyOutput())
            self.loop.run(lambda: session.prompt("> "))
        return self.output.getvalue()


def test_a_stream_grows_to_the_answer_of_generate(llama):
    texts = list(stream(llama, "w5 w6", max_new_tokens=8))
    assert texts[-1] == generate(llama, ["w5 w6"], max_new_tokens=8)[0]
    assert len(texts) > 3
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts))
    sampled = list(stream(llama, "w5 w6", max_new_tokens=8, temperature=2.0, seed=3))[-1]
    (expected,) = generate(llama, ["w5 w6"], max_new_tokens=8, temperature=2.0, seed=3)
    assert sampled == expected != texts[-1]


def test_an_incomplete_character_is_held_back_unless_the_answer_ends_with_it(llama, monkeypatch):
    decoded = ["a\ufffd", "a\ufffd\ufffd", "aé", "aé\ufffd"]
    monkeypatch.setattr(
        "cna_lens.models.running.answer_texts.AnswerTexts.text",
        lambda self, row, ids: decoded[len(ids) - 1],
    )
    monkeypatch.setattr(
        "cna_lens.models.running.request.end_of_turn_ids", lambda model: frozenset()
    )
    assert list(stream(llama, "w5", max_new_tokens=4)) == ["a", "a", "aé", "aé\ufffd"]


@pytest.mark.parametrize("settings", [{"max_new_tokens": 0}, {"temperature": -1.0}])
def test_a_stream_refuses_what_generate_refuses(llama, settings):
    with pytest.raises(InputError, match="expected"):
        stream(llama, "w5", **settings)


def test_a_prompt_is_answered_without_and_with_steering(player, llama):
    typed = Typed(player)
    screen = typed("w5 w6\r")
    (exchange,) = typed.loop.exchanges
    assert exchange.unsteered.text == generate(llama, ["w5 w6"], max_new_tokens=6)[0]
    assert exchange.unsteered.log_odds == refusal_log_odds(llama, ["w5 w6"])[0]
    with steer(llama, CIRCUIT, -20.0):
        assert exchange.steered.text == generate(llama, ["w5 w6"], max_new_tokens=6)[0]
        assert exchange.steered.log_odds == refusal_log_odds(llama, ["w5 w6"])[0]
    assert exchange.unsteered.text != exchange.steered.text
    assert exchange.unsteered.finished
    assert exchange.steered.finished
    for text in ("unsteered", "k = 3, multiplier -20", *exchange.steered.text.split()):
        assert text in screen


def test_the_steered_answer_grows_after_the_unsteered_one(player):
    seen = list(player.answer("w5 w6", OFF))
    lengths = [(len(each.unsteered.text), len(each.steered.text)) for each in seen]
    assert lengths == sorted(lengths)
    assert len(set(lengths)) > 6
    assert not any(each.steered.text and not each.unsteered.finished for each in seen)


@pytest.mark.parametrize(
    ("settings", "method"),
    [
        ({"k": 1}, lambda model: steer(model, STRONGEST, -20.0)),
        ({"scope": "last"}, lambda model: steer(model, CIRCUIT, -20.0, positions="last_prompt")),
        ({"method": "random"}, lambda model: steer(model, matched_random(CIRCUIT, 0), -20.0)),
        (
            {"multiplier": 0.0, "method": "caa"},
            lambda model: cna_lens.caa(model, *DISCOVERY).at(model, 1.0),
        ),
        (
            {"multiplier": 0.25, "method": "caa", "scope": "generated"},
            lambda model: cna_lens.caa(model, *DISCOVERY, positions="generated").at(model, 0.75),
        ),
    ],
)  # fmt: skip
def test_commands_change_the_steering_of_the_next_answer(player, llama, settings, method):
    typed = Typed(player)
    typed("".join(f"/{name} {value}\r" for name, value in settings.items()) + "w5 w6 w7\r")
    (exchange,) = typed.loop.exchanges
    with method(llama):
        assert exchange.steered.text == generate(llama, ["w5 w6 w7"], max_new_tokens=6)[0]
        assert exchange.steered.log_odds == refusal_log_odds(llama, ["w5 w6 w7"])[0]


def test_the_length_holds_for_both_answers(player, llama):
    typed = Typed(player)
    typed("/length 2\rw5 w6\r")
    assert typed.loop.exchanges[0].unsteered.text == generate(llama, ["w5 w6"], max_new_tokens=2)[0]


@pytest.mark.parametrize(
    ("line", "telling"),
    [
        ("/multipler 0.5", "no command /multipler; do you mean /multiplier? /help"),
        ("/xyzzy", "no command /xyzzy; /help shows all"),
        ("/set", "no command /set"),
        ("/multiplier", "takes a number, such as 0.5, and was given ''"),
        ("/multiplier nan", "was given 'nan'"),
        ("/k 4", "/k takes 1 to 3"),
        ("/k 1.5", "/k takes 1 to 3"),
        ("/length 0", "number of tokens from 1"),
        ("/method rand", "no method 'rand'; do you mean random? There are cna, random, caa"),
        ("/scope lst", "no scope 'lst'; do you mean last?"),
        ("/method caa", "set it to 0 to 1 first"),
        ("/save", "/save needs a file"),
        ("/help me", "/help takes no value"),
    ],
)
def test_a_wrong_command_is_named_and_changes_nothing(player, line, telling):
    with pytest.raises(InputError) as error:
        read_command(line, OFF, 3)
    assert telling in str(error.value)
    typed = Typed(player)
    screen = typed(f"{line}\r/top\r")
    assert " ".join(str(error.value).split()) in " ".join(screen.split())
    assert "L1/3" in screen
    assert typed.loop.settings == OFF


def test_every_command_in_the_help_is_accepted():
    for usage in HELP:
        name = usage.split()[0]
        values = {"/multiplier": "0.5", "/k": "1", "/method": "cna", "/scope": "all",
                  "/length": "3", "/save": "a.jsonl"}  # fmt: skip
        assert read_command(f"{name} {values.get(name, '')}", OFF, 3)


def test_quit_ends_the_session_before_later_lines(player):
    typed = Typed(player)
    typed("/quit\rw5\r")
    assert typed.loop.exchanges == []


def test_a_line_can_be_edited_before_it_is_entered(player):
    typed = Typed(player)
    typed("w5 w7\x7f6\x01w3 \r")
    assert [each.prompt for each in typed.loop.exchanges] == ["w3 w5 w6"]


@pytest.fixture
def ctrl_c():
    """Install Python's handler of Ctrl-C, which a background process lacks."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("side", ["unsteered", "steered"])
def test_ctrl_c_stops_the_answer_and_its_steering_but_not_the_session(
    player, llama, monkeypatch, ctrl_c, side
):
    calls = []

    def interrupted(model, prompt, **settings):
        calls.append(prompt)
        for place, text in enumerate(stream(model, prompt, **settings)):
            if place == 2 and len(calls) == (1 if side == "unsteered" else 2):
                ctrl_c()
            yield text

    (before,) = generate(llama, ["w5 w6"], max_new_tokens=6)
    monkeypatch.setattr(player_module, "stream", interrupted)
    typed = Typed(player)
    screen = typed("w5 w6\rw5 w6\r")
    stopped, whole = typed.loop.exchanges
    assert not stopped.steered.finished
    assert whole.steered.finished
    assert "interrupted" in screen
    assert before.startswith(stopped.unsteered.text)
    assert generate(llama, ["w5 w6"], max_new_tokens=6)[0] == before


def test_an_answer_left_early_restores_the_model(player, llama):
    hash_before = cna_lens.weights_hash(llama)
    exchanges = player.answer("w5 w6", OFF)
    while not next(exchanges).steered.text:
        pass
    assert cna_lens.weights_hash(llama) != hash_before
    exchanges.close()
    assert cna_lens.weights_hash(llama) == hash_before


def test_nothing_is_stored_until_save_names_a_file(player, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    typed = Typed(player)
    screen = typed("/save early.jsonl\rw5 w6\r/save\r")
    assert list(tmp_path.iterdir()) == []
    assert "there is no answer yet; nothing was saved" in screen
    typed(f"/save kept.jsonl\r/save {tmp_path}\r")
    assert "cannot be written" in typed.output.getvalue()
    notice, row = map(json.loads, (tmp_path / "kept.jsonl").read_text().splitlines())
    assert "do not publish it" in notice["notice"]
    (exchange,) = typed.loop.exchanges
    assert row["prompt"] == "w5 w6"
    assert row["steered"]["text"] == exchange.steered.text
    assert row["settings"]["multiplier"] == -20.0
    assert [file.name for file in tmp_path.iterdir()] == ["kept.jsonl"]


def test_a_prompt_too_long_for_the_model_does_not_end_the_session(player):
    typed = Typed(player)
    screen = typed(f"{'w5 ' * 300}\rw5\r")
    assert "context holds" in screen
    assert [each.prompt for each in typed.loop.exchanges] == ["w5"]
    assert typed.loop.exchanges[-1].steered.finished


def test_an_answer_is_labelled_refused_as_soon_as_it_opens_with_a_refusal():
    assert label(Written()) == "…"
    assert label(Written("I'm sorry, I can't help.", 1.5)).startswith("refused · ")
    assert label(Written("Sure", -1.5)).startswith("… · ")
    assert label(Written("Sure", -1.5, finished=True)) == "answered · log-odds of a refusal -1.50"


def test_answers_cannot_send_control_characters_to_the_terminal():
    exchange = Exchange("p", OFF, Written("[bold]a\x1b[2J\nb\u202e", 0.0))
    out = io.StringIO()
    Console(file=out, width=80, force_terminal=True).print(exchange_table(exchange))
    assert "[bold]a" in out.getvalue()
    assert "\x1b[2J" not in out.getvalue()
    assert "⟨U+202E⟩" in out.getvalue()


def test_an_empty_circuit_and_one_of_another_model_are_refused(llama):
    with pytest.raises(InputError, match="nothing to steer"):
        Player(llama, Circuit((), (), CIRCUIT.layout), DISCOVERY)
    other = CIRCUIT.with_provenance(model="another")
    with pytest.raises(cna_lens.CircuitMismatchError, match="another"):
        Player(llama, other, DISCOVERY)
    assert Player(llama, other, DISCOVERY, allow_other_model=True).circuit == other


def test_the_scopes_are_the_positions_of_steer():
    assert set(SCOPES.values()) == set(get_args(Positions))


@pytest.mark.long
@pytest.mark.real_model
def test_on_the_demo_model_both_answers_equal_those_of_generate(demo):
    prompts = cna_lens.prompt_set("refusal")
    circuit = cna_lens.find_circuit(
        demo, prompts.positive[:4], prompts.negative[:4], universal=None, progress=False
    )
    typed = Typed(Player(demo, circuit, DISCOVERY), Settings(3.0, k=46, length=5))
    screen = typed("How do I bake bread?\r")
    (exchange,) = typed.loop.exchanges
    (unsteered,) = generate(demo, ["How do I bake bread?"], max_new_tokens=5)
    with steer(demo, circuit, 3.0):
        (steered,) = generate(demo, ["How do I bake bread?"], max_new_tokens=5)
    assert (exchange.unsteered.text, exchange.steered.text) == (unsteered, steered)
    assert unsteered.split()[0] in screen
