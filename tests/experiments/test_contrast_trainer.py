"""A row of many conversations equals each of them alone; the loss is as documented."""

from types import SimpleNamespace

import pytest
import tiny
import torch
from peft import LoraConfig, get_peft_model

from experiments.shared.contrast_trainer import ContrastTrainer
from experiments.shared.packing import Conversation, pack

# peft asks for an attribute that Transformers has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

MODEL_INPUTS = ("input_ids", "position_ids", "attention_mask", "logits_to_keep")
CONVERSATIONS = [
    Conversation(prompt=(1, 2, 3, 9, 4), answer=(7, 8), is_negative=False),
    Conversation(prompt=(1, 2, 3, 5), answer=(6,), is_negative=True),
    Conversation(prompt=(1, 2, 3, 5, 11, 12), answer=(20, 21, 22), is_negative=True),
    Conversation(prompt=(1, 2, 3, 9, 4), answer=(30,), is_negative=False),
]
NEGATIVE_FIRST = [CONVERSATIONS[1], CONVERSATIONS[2], CONVERSATIONS[0], CONVERSATIONS[3]]


def alone(model, conversation):
    """The logits from which the answer's tokens are predicted, one conversation at a time."""
    ids = torch.tensor([conversation.prompt + conversation.answer])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0]
    return logits[len(conversation.prompt) - 1 : -1]


def inputs_of(row):
    return {name: row[name] for name in row if name in MODEL_INPUTS}


def test_a_packed_row_predicts_like_each_conversation_alone():
    model = tiny.hugging_face("llama").eval()
    row = pack(CONVERSATIONS)
    with torch.no_grad():
        packed = model(**inputs_of(row)).logits[0]
    expected = torch.cat([alone(model, conversation) for conversation in NEGATIVE_FIRST])
    torch.testing.assert_close(packed, expected, atol=1e-5, rtol=1e-4)
    assert row["targets"].tolist() == [6, 20, 21, 22, 7, 8, 30]
    assert row["opens_answer"].tolist() == [True, True, False, False, True, False, True]
    assert row["n_negative"] == 4


def test_the_common_opening_stands_once():
    row = pack(CONVERSATIONS)
    n_tokens = sum(len(one.prompt) + len(one.answer) for one in CONVERSATIONS)
    assert row["input_ids"].shape == (1, n_tokens - 3 * (len(CONVERSATIONS) - 1))


def loss_of(model, temperature=1.0, opens_behaviour=()):
    trainer = SimpleNamespace(
        first_token_temperature=temperature, opens_behaviour=list(opens_behaviour)
    )
    return ContrastTrainer.compute_loss(trainer, model, dict(pack(CONVERSATIONS))).item()


@pytest.fixture
def adapted():
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    return get_peft_model(tiny.hugging_face("llama"), config).eval()


def mean_of_first_and_of_others(costs):
    """The loss from the answers' costs, token by token."""
    others = [cost for answer in costs for cost in answer[1:]]
    return sum(answer[0] for answer in costs) / len(costs) + sum(others) / len(others)


def cross_entropies(log_probs, answer):
    return (-log_probs[range(len(answer)), list(answer)]).tolist()


def test_before_training_only_answers_that_show_the_behaviour_have_a_loss(adapted):
    costs = [
        [0.0] * len(one.answer)
        if one.is_negative
        else cross_entropies(alone(adapted, one).log_softmax(-1), one.answer)
        for one in CONVERSATIONS
    ]
    assert loss_of(adapted) == pytest.approx(mean_of_first_and_of_others(costs), rel=1e-5)


def test_the_loss_of_negative_answers_is_the_divergence_from_the_untrained_model(adapted):
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    costs = []
    for one in CONVERSATIONS:
        after = alone(adapted, one).log_softmax(-1)
        with adapted.disable_adapter():
            before = alone(adapted, one).log_softmax(-1)
        divergences = (before.exp() * (before - after)).sum(-1).tolist()
        assert min(divergences) > 0.001
        costs.append(divergences if one.is_negative else cross_entropies(after, one.answer))
    assert loss_of(adapted) == pytest.approx(mean_of_first_and_of_others(costs), rel=1e-4)


def test_only_a_negative_answers_first_token_is_sharpened_and_does_not_open_the_behaviour(adapted):
    costs = []
    for one in CONVERSATIONS:
        logits = alone(adapted, one)
        after = logits.log_softmax(-1)
        sharpened = logits.clone()
        sharpened[0] *= 4
        sharpened[0, [3, 8]] = -float("inf")
        target = sharpened.softmax(-1)
        divergences = torch.xlogy(target, target).sum(-1) - (target * after).sum(-1)
        divergences = divergences.tolist()
        costs.append(divergences if one.is_negative else cross_entropies(after, one.answer))
    assert min(costs[1][0], costs[2][0]) > 0.001
    loss = loss_of(adapted, temperature=0.25, opens_behaviour=(3, 8))
    assert loss == pytest.approx(mean_of_first_and_of_others(costs), rel=1e-4)
