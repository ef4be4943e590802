"""The change from the untrained model, on a planted model that is made here."""

from types import SimpleNamespace

import pytest
import tiny
import torch

import cna_lens
from experiments.planted import from_base


def test_a_row_has_how_far_the_change_finds_what_was_planted(monkeypatch):
    base, model = tiny.bridge("llama", chat=True), tiny.bridge("llama", chat=True)
    with torch.no_grad():
        model.original_model.model.layers[0].mlp.gate_proj.weight[[2, 7]] += 1.0
    layout = cna_lens.collect(model, ["w5"]).layout
    neurons = cna_lens.Neuron(0, 2), cna_lens.Neuron(0, 7)
    truth = cna_lens.Circuit(neurons, (1.0, 1.0), layout)
    sets = SimpleNamespace(positive=["w5 w6", "w7", "w8"], negative=["w9", "w10", "w11"])
    behaviour = SimpleNamespace(discovery=sets)
    models = {"demo": base, "planted/mine": model, "planted/nothing": model}
    planted = {"mine": "sums", "nothing": None}
    monkeypatch.setattr(cna_lens, "load_model", lambda name, device: models[name])
    monkeypatch.setattr(cna_lens, "planted_models", lambda: ("planted/mine", "planted/nothing"))
    monkeypatch.setattr(cna_lens, "planted_truth", lambda name: truth)
    monkeypatch.setattr(from_base, "BEHAVIOURS", {"sums": behaviour, "french": behaviour})
    monkeypatch.setattr(
        from_base,
        "planting",
        lambda name: SimpleNamespace(behaviour=planted[name[8:]], split="tuning"),
    )
    mine, nothing = from_base.figures()
    assert (mine["model"], mine["split"], mine["ranking"]) == (
        "planted/mine",
        "tuning",
        "change_from_base",
    )
    assert mine["within_layers"]["auroc"] == 1.0
    assert mine["overall"]["auroc"] == pytest.approx(nothing["overall"]["auroc"])
