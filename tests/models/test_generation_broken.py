"""A model without defined logits gives no answers, and forbidden tokens are never written."""

import warnings

import pytest
import tiny
import torch

import cna_lens
from cna_lens.models import stream

PROMPTS = [[5, 6, 7, 8, 9], [30, 31], [40, 41, 42]]
NAN, INF = float("nan"), float("inf")
WAYS = [{}, {"temperature": 1.0}]


def with_logits(model, change):
    """Hooks that change the logits after the unembedding."""

    def hook(logits, hook):
        changed = logits.clone()
        change(changed)
        return changed

    return model.hooks(fwd_hooks=[("unembed.hook_out", hook)])


def set_to(value, tokens=slice(None), rows=slice(None)):
    def change(logits):
        # A single answer is the last row.
        logits[rows if len(logits) > 1 else -1, :, tokens] = value

    return change


@pytest.mark.parametrize("options", WAYS, ids=["greedy", "sampled"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_to(NAN), "not a number"),
        (set_to(NAN, tokens=7, rows=1), "not a number"),
        (set_to(INF, tokens=7), "infinite"),
        (set_to(INF, tokens=[7, 8], rows=2), "infinite"),
        (set_to(-INF), "every token the logit -inf"),
    ],
    ids=["all NaN", "one NaN in one row", "one infinity", "two infinities", "nothing left"],
)
def test_logits_that_define_no_choice_raise(llama, options, change, message):
    with with_logits(llama, change), pytest.raises(cna_lens.ModelError, match=message):
        cna_lens.generate(llama, PROMPTS, max_new_tokens=3, **options)

    with with_logits(llama, change), pytest.raises(cna_lens.ModelError, match=message):
        list(stream(llama, PROMPTS[0], max_new_tokens=3, **options))


@pytest.mark.parametrize("options", WAYS, ids=["greedy", "sampled"])
def test_tokens_at_minus_infinity_are_left_out(llama, options):
    with with_logits(llama, set_to(-INF, tokens=slice(0, 60))):
        answers = cna_lens.generate(llama, PROMPTS, max_new_tokens=8, **options)
    words = {word for answer in answers for word in answer.split()}
    assert words <= {"w60", "w61", "user", "assistant"}
    assert words


def test_nan_in_a_later_token_raises_too(llama):
    passes = []

    def hook(logits, hook):
        passes.append(None)
        return logits * NAN if len(passes) == 3 else logits

    with (
        llama.hooks(fwd_hooks=[("unembed.hook_out", hook)]),
        pytest.raises(cna_lens.ModelError, match=r"tiny-llama gives .*float32"),
    ):
        cna_lens.generate(llama, PROMPTS, max_new_tokens=8)
    assert len(passes) == 3


def test_weights_that_are_nan_raise():
    model = tiny.bridge("llama")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(NAN)
    with pytest.raises(cna_lens.ModelError, match="not a number"):
        cna_lens.generate(model, PROMPTS, max_new_tokens=3)


def test_a_multiplier_that_overflows_in_float16_raises():
    model = tiny.bridge("llama", dtype=torch.float16)
    neurons = tuple(cna_lens.Neuron(0, index) for index in range(tiny.WIDTH))
    circuit = cna_lens.Circuit(
        neurons, (1.0,) * tiny.WIDTH, cna_lens.Layout((tiny.WIDTH, tiny.WIDTH))
    )
    with cna_lens.steer(model, circuit, 1e6), pytest.raises(cna_lens.ModelError):
        cna_lens.generate(model, PROMPTS, max_new_tokens=3)


def test_a_temperature_near_0_samples_the_likeliest_token(llama):
    sampled = cna_lens.generate(llama, PROMPTS, max_new_tokens=8, temperature=1e-310)
    assert sampled == cna_lens.generate(llama, PROMPTS, max_new_tokens=8)


def theirs(model, prompt, new):
    """The answer of Hugging Face's own `generate`."""
    ids = torch.tensor([prompt])
    answer = model.original_model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False
    )[0, len(prompt) :]
    return model.tokenizer.decode(answer, skip_special_tokens=True)


def configured(family="llama", **settings):
    model = tiny.bridge(family)
    for name, value in settings.items():
        setattr(model.original_model.generation_config, name, value)
    return model


@pytest.mark.parametrize("name", ["suppress_tokens", "begin_suppress_tokens"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_forbidden_tokens_are_those_of_hugging_face(models, family, name):
    free = [theirs(models[family], prompt, 10) for prompt in PROMPTS]
    written = sorted(
        {int(word[1:]) for answer in free for word in answer.split()[:2] if word[0] == "w"}
    )
    # Some configs hold -1, and ids beyond the vocabulary.
    model = configured(family, **{name: [*written, -1, 1000]})
    answers = cna_lens.generate(model, PROMPTS, max_new_tokens=10)
    assert answers == [theirs(model, prompt, 10) for prompt in PROMPTS]
    assert answers != free
    assert [*stream(model, PROMPTS[0], max_new_tokens=10)][-1] == answers[0]


def test_forbidden_tokens_are_not_sampled():
    allowed = {20, 30, 40}
    model = configured(suppress_tokens=[t for t in range(tiny.VOCABULARY) if t not in allowed])
    model.original_model.generation_config.begin_suppress_tokens = [20, 30]
    answers = cna_lens.generate(model, PROMPTS * 4, max_new_tokens=9, temperature=1e6)
    assert {answer.split()[0] for answer in answers} == {"w40"}
    assert {word for answer in answers for word in answer.split()} == {"w20", "w30", "w40"}


def test_when_every_token_is_forbidden_that_is_said():
    model = configured(suppress_tokens=list(range(tiny.VOCABULARY)))
    with pytest.raises(cna_lens.ModelError, match="suppress_tokens of its generation config"):
        cna_lens.generate(model, PROMPTS)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("repetition_penalty", 1.1),
        ("no_repeat_ngram_size", 3),
        ("bad_words_ids", [[5]]),
        ("forced_bos_token_id", 5),
        ("forced_eos_token_id", 5),
        ("min_new_tokens", 4),
        ("sequence_bias", [[[5], 2.0]]),
    ],
)
def test_a_setting_that_is_not_obeyed_is_named_once(setting, value):
    model = configured(**{setting: value})
    with pytest.warns(cna_lens.CnaLensWarning, match=rf"sets {setting}=.*does not"):
        cna_lens.generate(model, PROMPTS, max_new_tokens=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cna_lens.generate(model, PROMPTS, max_new_tokens=1)
        stream(model, PROMPTS[0])


def test_settings_of_sampling_are_named_when_sampling():
    model = configured(top_p=0.8, do_sample=True, temperature=0.7, repetition_penalty=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cna_lens.generate(model, PROMPTS, max_new_tokens=1)
    with pytest.warns(cna_lens.CnaLensWarning, match=r"sets top_p=0\.8,"):
        stream(model, PROMPTS[0], temperature=1.0)
