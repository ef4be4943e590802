"""The paper's interventions as the settings read them, and how the set-up differs from its."""

from __future__ import annotations

from typing import Any

from experiments.study import paper
from experiments.study.cells import Discovery, Steering
from experiments.study.settings import Role, Study
from experiments.study.sources import Sources

PACKAGED = "prompts are this package's: the paper's own are not published"


def discovery(study: Study, prompts: str, **changes: Any) -> Discovery:
    """How circuits are found: by the study's sign, filter and fraction, unless changed."""
    given: dict[str, Any] = {
        "sign": study.sign,
        "universal": study.universal_filter,
        "fraction": None if "k" in changes else study.fraction,
    }
    return Discovery(prompts, **{**given, **changes})


def cna(study: Study, prompts: str, **changes: Any) -> Steering:
    """CNA: the circuit is multiplied by 1 less the strength."""
    return Steering("scale", discovery(study, prompts, **changes))


def random_control(study: Study, prompts: str, match: str = "layer", **changes: Any) -> Steering:
    """As many random neurons of the same layers, scaled alike."""
    return Steering("scale", discovery(study, prompts, control=match, **changes))


def caa(study: Study, prompts: str) -> Steering:
    """CAA: the difference of the mean MLP outputs at every layer, with the study's sign."""
    return Steering("caa", Discovery(prompts), caa_sign=study.caa_sign)


def of_circuits(study: Study) -> tuple[str, ...]:
    """How circuits are read."""
    when = {
        "before": "excluded before the top is taken, which keeps the circuit's size",
        "after": "taken out of the circuit afterwards, which makes it smaller",
        "none": "not excluded",
    }[study.universal_filter]
    sign = {
        "abs": "neurons by the magnitude of the difference, of either sign",
        "positive": "only neurons more active on positive prompts",
        "negative": "only neurons less active on positive prompts",
    }[study.sign]
    return f"difference: {sign}", f"universal neurons: {when}"


def of_caa(study: Study) -> tuple[str, ...]:
    """How CAA is read."""
    done = {
        "subtract": "taken away, which weakens what the positive prompts show",
        "add": "added, as in the authors' code, which strengthens what the positive prompts show",
    }[study.caa_sign]
    return (f"CAA's vectors, harmful minus benign, are {done}",)


def of_answers(study: Study, sources: Sources, prompts: str) -> tuple[str, ...]:
    """How requests and answers differ from the paper's."""
    n = len(sources.harmful_requests(study.evaluation, study.limit))
    found = [f"{n} harmful requests of {study.evaluation}, the paper {paper.PROMPTS} of JBB"]
    if study.max_new_tokens != paper.MAX_NEW_TOKENS:
        found.append(
            f"answers of at most {study.max_new_tokens} tokens, the paper's {paper.MAX_NEW_TOKENS}"
        )
    found.append("refusals by the words an answer opens with; answers end at the first end of turn")
    return (*found, *of_discovery(prompts))


def of_discovery(*prompts: str) -> tuple[str, ...]:
    """The prompts that circuits are found on."""
    return (f"discovery on {', '.join(prompts)}: {PACKAGED}",)


def of_models(study: Study, *roles: Role) -> tuple[str, ...]:
    """How the models differ from the paper's models."""
    found: list[str] = []
    for pair in study.pairs:
        if pair.name not in paper.NAMES:
            found.append(f"{pair.name} is none of the paper's models: there is nothing beside it")
        elif pair.dtype != paper.DTYPE:
            found.append(f"{pair.name} in {pair.dtype}, the paper's in {paper.DTYPE}")
        if pair.base is None and "base" in roles:
            found.append(f"{pair.name} has no base model here, and is left out")
        if pair.note:
            found.append(pair.note)
    return tuple(dict.fromkeys(found))
