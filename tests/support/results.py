"""Made-up results for tests of how results are shown; no model runs for them."""

import random

import torch
from kept import kept, noise

import cna_lens
from cna_lens import Circuit, Comparison, Estimate, Layout, Neuron, NeuronScores, Provenance
from cna_lens.evidence import Ablations, Necessity
from cna_lens.models import AnswerLogProbs, PromotedTokens
from cna_lens.models.tokens.answer_log_probs import TokenPrediction
from cna_lens.models.tokens.promoted_tokens import TokenLogit
from cna_lens.steering import Outcome

WIDTHS = (40,) * 6
HOSTILE = "</script><script>document.title='executed'</script><img src=x onerror=document.title=1>"
HOSTILE_TOKENS = (
    "<|im_start|>",
    "\n",
    "</script>",
    "<img src=x onerror=document.title='executed'>",
    "&amp;",
    " ",
    "",
    "\u202e",
    "مرحبا",
    " שלום",
    "\x00",
    " word",
)


def circuit(model="a model", seed=0, k=12):
    found = scores(seed).top(k=k)
    provenance = Provenance(model=model, rank="contrast", unit="activation", sign="abs")
    return Circuit(found.neurons, found.scores, found.layout, provenance)


def scores(seed=0):
    shared = torch.randn(sum(WIDTHS), generator=torch.Generator().manual_seed(99)).double()
    own = torch.randn(sum(WIDTHS), generator=torch.Generator().manual_seed(seed)).double()
    return NeuronScores(2 * shared + own, Layout(WIDTHS), "contrast")


def activations(seed, shift=0.0, n=12):
    rows = noise(n, sum(WIDTHS), seed)
    rows[:, ::20] += shift
    return kept(rows * (torch.arange(6).repeat_interleave(40) / 3 + 0.3), WIDTHS)


def comparison(methods=("ablation", "caa"), n=20):
    draw = random.Random(0)

    def outcome(method, strength):
        left, kl = 0.9 - 0.6 * strength, strength * (1 + len(method))
        return Outcome(
            method=method,
            strength=strength,
            positive=tuple(draw.random() < left for _ in range(n)),
            negative=(False,) * n,
            quality=tuple(1 - 0.3 * strength * draw.random() for _ in range(n)),
            kl_per_token=tuple(kl * draw.random() for _ in range(n)),
            metrics={},
            answers_sha256=(),
            seconds=1.0,
        )

    steered = [outcome(name, strength) for name in methods for strength in (0.5, 1.0)]
    return Comparison((outcome("unsteered", 0.0), *steered))


def necessity(rankings=("contrast", "relp")):
    def near(value):
        return Estimate(value, value - 0.1, value + 0.1, 20)

    points = tuple(
        Ablations(name, k, near(1.0), near(k / 100), near(1 - k / 100), (), ())
        for name in rankings
        for k in (0, 10, 100)
    )
    return Necessity(points, (1.0, 2.0), (0.0, 0.1), "last_prompt", "a model", 20, 100, 0)


def evidence():
    positive, negative = activations(1, 1.5), activations(2)
    selection = cna_lens.Selection(k=6)
    return {
        "stability": cna_lens.stability(positive, negative, selection, sizes=[4], n_resamples=20),
        "null": cna_lens.null_distribution(positive, negative, selection, n_permutations=50),
        "localization": cna_lens.localization(
            positive, negative, selection, n_resamples=10, n_permutations=10
        ),
        "transfer": cna_lens.transfer({name: circuit(seed=i) for i, name in enumerate("abc")}),
        "necessity": necessity(),
    }


def token_activations(tokens=HOSTILE_TOKENS, model="a model"):
    drawn = torch.randn((len(tokens), 2), generator=torch.Generator().manual_seed(0))
    values = drawn * torch.tensor([1.0, 30.0])
    return cna_lens.TokenActivations(
        model, (Neuron(5, 1), Neuron(0, 3)), (tokens, tokens[:3]), (values, -values[:3])
    )


def answer(tokens=HOSTILE_TOKENS):
    def predicted(log_prob):
        likeliest = tuple((token, -0.1 - place) for place, token in enumerate(tokens[:4]))
        return TokenPrediction(log_prob, 2, likeliest)

    return AnswerLogProbs(
        tokens,
        tuple(predicted(-0.2 * place) for place in range(len(tokens))),
        tuple(predicted(-3 + 0.2 * place) for place in range(len(tokens))),
    )


def promoted(tokens=HOSTILE_TOKENS):
    logits = tuple(TokenLogit(token, place, 9.0 - place) for place, token in enumerate(tokens))
    return PromotedTokens("a model", Neuron(5, 1), logits, tuple(reversed(logits)))
