"""Results as data frames, and as data sets of Hugging Face."""

import datasets
import pandas as pd
import pytest
import results
import torch
from outcomes import BOILING, KINDS

from cna_lens import ExpertNeuron, Experts, Layout, Neuron, NeuronScores
from cna_lens.metrics import Answered, label, outcomes


def evaluation():
    return label([BOILING] * 4, list(KINDS.values()))


FRAMES = {
    "circuit": lambda: results.circuit(),
    "scores": lambda: results.scores(),
    "comparison": lambda: results.comparison(),
    "evaluation": evaluation,
    "outcomes": lambda: outcomes([Answered("unsteered, m = 1", "harmful", evaluation())]),
    "token activations": lambda: results.token_activations(),
    "promoted tokens": lambda: results.promoted(),
    "log-probabilities": lambda: results.answer(),
    **{name: lambda name=name: results.evidence()[name] for name in ("null", "stability")},
    **{name: lambda name=name: results.evidence()[name] for name in ("transfer", "necessity")},
}


@pytest.mark.parametrize("name", FRAMES)
def test_a_result_is_a_frame_and_a_data_set_with_the_same_values(name):
    frame = FRAMES[name]().to_frame()
    assert len(frame) > 1
    back = datasets.Dataset.from_pandas(frame, preserve_index=False).to_pandas()
    pd.testing.assert_frame_equal(back, frame, check_dtype=False)


def test_scores_have_a_row_for_each_neuron_with_its_place():
    layout = Layout((2, 5), experts=(Experts(0, 0), Experts(2, 2)))
    values = torch.arange(7, dtype=torch.float64)
    eligible = values != 3
    frame = NeuronScores(values, layout, "contrast", eligible=eligible).to_frame()
    places = [
        Neuron(row.layer, row.index) if pd.isna(row.expert) else ExpertNeuron(*row)
        for row in frame[["layer", "expert", "index"]].itertuples(index=False, name="Row")
    ]
    assert places == [layout.neuron(place) for place in range(7)]
    assert frame["score"].tolist() == values.tolist()
    assert frame["eligible"].tolist() == eligible.tolist()


def test_token_activations_have_a_row_for_each_token_and_a_column_for_each_neuron():
    found = results.token_activations()
    frame = found.to_frame()
    assert len(frame) == sum(map(len, found.tokens))
    for place, (tokens, values) in enumerate(zip(found.tokens, found.values, strict=True)):
        rows = frame[frame["prompt"] == place]
        assert tuple(rows["token"]) == tokens
        assert rows["pos"].tolist() == list(range(len(tokens)))
        assert torch.equal(torch.tensor(rows[["L5/1", "L0/3"]].to_numpy()), values.double())


def test_promoted_tokens_and_log_probabilities_have_a_row_for_each_token():
    promoted = results.promoted()
    frame = promoted.to_frame()
    assert frame[frame["side"] == "up"]["logit"].tolist() == [each.logit for each in promoted.up]
    assert frame[frame["side"] == "down"]["token"].tolist() == [e.token for e in promoted.down]
    answer = results.answer()
    frame = answer.to_frame()
    assert tuple(frame["change"]) == answer.change
    assert frame["log_prob_steered"].tolist() == [at.log_prob for at in answer.steered]
    assert frame["rank_unsteered"].tolist() == [at.rank for at in answer.unsteered]
