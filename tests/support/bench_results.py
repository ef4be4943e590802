"""A result of the bench on planted models, made up."""

from cna_lens.evidence import Cost, Effect, OtherAblations, Scored
from cna_lens.evidence.known_truth import Found, Recovery

SHARES = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)


def effect(shown, log_odds=0.0):
    return Effect(shown, log_odds, 0.1, 0.9)


def scored(chosen, faithfulness=(0.0,) * 6, model="planted/one", ranking="mine", **changes):
    found = Found(0.7, 0.2, 0.1)
    given = {
        "model": model,
        "ranking": ranking,
        "recovery": Recovery(ranking, 3, 100, found, found, 0.03),
        "before": effect((True, True, True, False), 4.0),
        "oracle": effect((False, False, True, False), -2.0),
        "chosen": effect(chosen),
        "unplanted": (True, False, False, False),
        "random": None,
        "half_samples": (),
        "in_decoy": None,
        "oracle_otherwise": OtherAblations(3.5, -1.0, -2.0),
        "chosen_otherwise": OtherAblations(2.0, 3.0, 1.0),
        "fractions": SHARES,
        "faithfulness": faithfulness,
        "without": (0.0,) * 6,
        "cost": Cost(1.0, 0.5, 2.0),
    }
    return Scored(**{**given, **changes})
