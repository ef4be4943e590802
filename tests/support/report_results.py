"""Results of every kind for a report; each text in them can be made hostile."""

import json
import random
from collections import defaultdict
from dataclasses import asdict, replace
from itertools import cycle

import results

from cna_lens import Comparison, PromptRecord
from cna_lens.metrics import Answered, label
from cna_lens.report import Run, StudyTable, Texts

REFUSAL, ANSWER = "I'm sorry, I can't help.", "Sure, this is how one does it every day."

HOSTILE = (
    "</script><script>document.title='executed'</script>",
    '"><img src=x onerror="document.title=\'executed\'">',
    "' onmouseover='document.title=1' x='",
    "</style></title></textarea><style>*{display:none}</style>",
    "<!--<script>",
    "-->]]><![CDATA[",
    "{{7*7}} ${7*7} <%= 7*7 %> {% raw %} #{7*7}",
    "javascript:document.title='executed'",
    "&lt;b&gt; &amp; &#60;",
    "\u202eevil\u2066",
    "مرحبا بالعالم 12",
    "שלום, m = 0",
    "\x00\x1b[31m",
    "line\nbreak\ttab",
    "$\\frac{1}{0}$ %s {0} \\",
    "<svg onload=document.title='executed'>",
    "https://example.com/<base href=//evil>",
)


def hostile_texts():
    """A function that appends a hostile text to each text, the same to equal texts."""
    following = cycle(HOSTILE)
    found = defaultdict(lambda: next(following))
    return lambda plain: f"{plain}{found[plain]}"


def answers(text=lambda plain: plain, n=12):
    """Labels of two kinds of prompts under three conditions."""
    draw = random.Random(0)

    def evaluation(kind, share):
        prompts = [text(f"{kind} prompt {place}") for place in range(n)]
        return label(prompts, [REFUSAL if draw.random() < share else ANSWER for _ in prompts])

    shares = {"harmful": (0.9, 0.1, 0.9), "benign": (0.1, 0.1, 0.1)}
    conditions = ("unsteered, m = 1", "circuit, m = 0", "random control, m = 0")
    return tuple(
        Answered(f"{condition}{text('')}", f"{kind}{text('')}", evaluation(kind, share))
        for kind, of_kind in shares.items()
        for condition, share in zip(conditions, of_kind, strict=True)
    )


def run(text=lambda plain: plain):
    return Run(
        command=text("cna-lens demo --model 'a model'"),
        model=text("a model"),
        weights_sha256=text("ab" * 32),
        prompts={text("harmful"): PromptRecord(3, text("cd" * 32))},
        settings={text("multiplier"): text("0.0")},
        seconds=12.3,
        date=text("2026-01-31"),
        versions={text("torch"): text("2.13")},
    )


def study_record(text=lambda plain: plain, lines=False):
    """The content of the file of a reproduced table."""
    rate = {"value": 0.2, "low": 0.1, "high": 0.35, "n": 30}
    rows = [
        {
            "model": text("a model"),
            "quantity": text(f"refused, CNA {at:g}"),
            "ours": rate | {"value": 0.2 + 0.1 * at},
            "paper": 0.25,
            "share": False,
            "at": at if lines else None,
            "series": text("CNA, a model") if lines else "",
        }
        for at in (0.0, 0.5, 1.0)
    ]
    mean = {"value": -0.91, "low": None, "high": None, "n": 1, "missing": 2}
    other = rows[0] | {"at": None, "series": "", "ours": mean}
    rows.append(other | {"quantity": text("quality")})
    rows.append(other | {"quantity": text("change"), "ours": mean | {"n": 3}, "share": True})
    rows.append(other | {"quantity": text("missing"), "ours": None, "paper": None})
    return {
        "name": text("table1"),
        "title": text("refusals"),
        "rows": rows,
        "differences": [text("another model")],
        "readings": [text("sign abs")],
        "answer": text("it does"),
        "provenance": {"command": text("cna-lens reproduce table1"), "seed": 0},
        "extra": {},
    }


def comparison(text=lambda plain: plain):
    found = results.comparison()
    first, *others = found.outcomes
    return Comparison((first, *(replace(each, method=text(each.method)) for each in others)))


def texts(text=lambda plain: plain):
    return Texts(text("a notice"), ((text("a prompt"), text(f"{REFUSAL} KEPT ON PURPOSE")),))


def everything(text=lambda plain: plain):
    """One result of each kind; `text` is applied to every text that comes from outside."""
    named = {
        "run.json": run(text),
        "circuit.json": results.circuit(model=text("a model")),
        "labels.jsonl": answers(text),
        "comparison.jsonl": comparison(text),
        "table1.json": StudyTable.from_record(study_record(text)),
        "figure1.json": StudyTable.from_record(study_record(text, lines=True)),
        "texts.jsonl": texts(text),
    }
    named |= {f"{name}.json": found for name, found in results.evidence().items()}
    named["necessity.json"] = results.necessity((text("contrast"), text("relp")))
    return {text(name): result for name, result in named.items()}


def write_folder(folder):
    """Write the same kinds of results as files, as this package does."""
    from cna_lens.metrics import save_labels, write_answers

    run().save(folder / "run.json")
    results.circuit().save(folder / "circuit.json")
    save_labels(answers(), folder / "labels.jsonl")
    lines = [{"comparison": {"model": "a model"}}]
    lines += [
        {"key": f"{each.method} {each.strength}", **asdict(each)}
        for each in results.comparison().outcomes
    ]
    (folder / "comparison.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    for name, found in results.evidence().items():
        found.save(folder / f"{name}.json")
    (folder / "table1.json").write_text(json.dumps(study_record()))
    write_answers(folder / "answers-circuit.jsonl", ["a prompt"], ["SECRET\u2028answer"])
