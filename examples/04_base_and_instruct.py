# %% [markdown]
# # Base and instruct
#
# **When a model learns to refuse, do new neurons carry it, or the ones that were there?**
#
# The pair here is small: SmolLM2-135M-Instruct, which hardly refuses, stands for the base model,
# and the same model with an adapter that makes it refuse for the instruct one. With a pair of
# your own only the two names change. About a minute on a CPU.

# %%
import cna_lens
from cna_lens import viz
from cna_lens.metrics import evaluate, refusal_log_odds

models = {
    "base": cna_lens.load_model("demo"),
    "instruct": cna_lens.load_model("demo-refusal"),
}

# %% [markdown]
# ## How much do they refuse?

# %%
held_out = cna_lens.prompt_set("refusal_evaluation").positive[::5]
for name, model in models.items():
    print(f"{name:9s}", evaluate(model, held_out, max_new_tokens=12).refusal_rate)

# %% [markdown]
# ## Two circuits for refusal, two for something else
#
# The same prompts for both models. The other task is a state's capital against its largest city,
# which the adapter was not trained on: how much two circuits of this pair overlap when nothing
# was learned about it.

# %%
refusal, capitals = cna_lens.prompt_set("refusal"), cna_lens.prompt_set("capitals")
circuits = {}
for name, model in models.items():
    universal = cna_lens.universal_neurons(model)
    circuits[f"refusal, {name}"] = cna_lens.find_circuit(
        model, refusal.positive[::5], refusal.negative[::5], universal=universal
    )
    circuits[f"capitals, {name}"] = cna_lens.find_circuit(
        model, capitals.positive[::2], capitals.negative[::2], universal=universal, chat=False
    )
viz.layers(circuits)

# %% [markdown]
# Training moved neither: all four lie where activations are large.
#
# ## Are they the same neurons?
#
# Jaccard indices, and in brackets those of random circuits with as many neurons in each layer.

# %%
overlap = cna_lens.transfer(circuits)
viz.overlap(overlap)

# %%
overlap

# %% [markdown]
# The circuit of capitals has stayed: more than four fifths of its neurons are the same in both
# models. The circuit of refusal has not: the two share no more neurons than either shares with the
# circuit of capitals, which is the overlap of any two circuits of this model. Random circuits, even
# in the same layers, are too weak a control for this; a circuit for another task is a better one.
#
# ## Do they do the same?
#
# Each circuit is ablated in both models; `allow_other_model` says that this is meant. The change
# of the log-odds of a refusal, in nats:

# %%
for name, model in models.items():
    before = refusal_log_odds(model, held_out)
    for found_in in models:
        circuit = circuits[f"refusal, {found_in}"]
        with cna_lens.steer(model, circuit, multiplier=0.0, allow_other_model=True):
            change = cna_lens.paired_bootstrap(before, refusal_log_odds(model, held_out))
        print(f"{name:9s} without the circuit of {found_in:9s} {change}")

# %% [markdown]
# ## The answer
#
# Here new neurons carry it. Once the model refuses, other neurons differ between harmful and benign
# requests. Only these lower the log-odds of a refusal in it, by half a nat; the neurons of the base
# model do nothing there. The task that was not trained has kept its neurons.
#
# The paper reports 17 and 28 of 200 neurons shared between base and instruct models for refusal,
# and more for capitals in both. This pair is a small one and its training a narrow one, the
# circuits are from 20 pairs of prompts, and the intervals are wide: it shows how to ask.
