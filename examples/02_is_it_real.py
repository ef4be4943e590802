# %% [markdown]
# # Is it real?
#
# **Some neurons always differ most between two sets of prompts. How many of a circuit's would
# have been there anyway?**
#
# This notebook asks four questions about a circuit: would shuffled labels have given one too,
# would other prompts have given another, is it late in the model because the behaviour is, and do
# random neurons do the same? Only the last needs further forward passes. About a minute on a CPU.

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
# `keep="all"` keeps every prompt's activations, so the next steps are arithmetic on them.
# `Selection` says how a circuit is chosen, here as in the paper; each question below repeats that
# choice.
#
# ## Would shuffled labels have given one too?
#
# Shuffle the labels "harmful" and "benign" many times. Left: how many neurons then reach the
# circuit's weakest difference. Right: how many neurons reach a p-value, compared with chance.

# %%
null = cna_lens.null_distribution(positive, negative, selection, n_permutations=300)
viz.null(null)

# %%
print("of the circuit's neurons differ, 5 % false discoveries:", null.found_in_circuit(0.05))
print("of all neurons:", null.size(0.05))
print("share of the circuit that shuffled labels would fill:", null.chance_share())

# %% [markdown]
# Every neuron of the circuit differs, and shuffled labels would fill about a hundredth of it. But
# a third of all neurons differ too: in a model that was taught to refuse, harmful and benign
# requests are easy to tell apart. We stopped counting at 46 neurons; the difference does not end
# there.
#
# ## Would other prompts have given another?
#
# Draw the prompts again with replacement, and in smaller sets.

# %%
stability = cna_lens.stability(positive, negative, selection, n_resamples=100)
viz.stability(stability)

# %%
smallest = stability.sizes[0]
print(f"two circuits from {smallest.size} + {smallest.size} other prompts:", smallest.disjoint)
print("a resample of all prompts, with the circuit:", stability.jaccard)
print("neurons in every resample:", len(stability.core()), "of", len(stability.circuit))

# %% [markdown]
# A Jaccard index of .6 means that three quarters of the neurons are shared. So eight other prompts
# a side, the size of the paper's smaller sets, replace a quarter of the circuit. The clearer the
# behaviour, the more stable the circuit: before this model was taught to refuse, the same figure
# was .31 (see *Findings*).
#
# ## Is it late because refusal is?
#
# The share of the circuit in the last layers, beside the share that shuffled labels give; and the
# same after each layer's activations are divided by their root mean square.

# %%
place = cna_lens.localization(positive, negative, selection, n_resamples=100, n_permutations=100)
viz.layers(place)

# %%
place

# %% [markdown]
# Without scaling, nine tenths of the circuit lie in the last three layers, and so do nine tenths
# of the neurons that shuffled labels find. With scaling, both are spread over the second half of
# the layers. In every row "share" and "shuffled labels" are alike: the location of the circuit
# says nothing about refusal.
#
# ## Do random neurons do the same?
#
# Ablate the circuit, and three random sets of as many neurons of the same layers. The log-odds
# that an answer begins as a refusal need no generation.

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
# The circuit is real: its neurons differ by more than chance, other prompts find most of them
# again, and ablating them has an effect that random neurons do not have. But two conclusions would
# be wrong: that these 46 are *the* neurons, since thousands differ as surely, and that refusal is
# late in the model. The controls also differ among themselves, and a single draw could have been
# one without effect. Report a circuit with its null, its stability, and more than one control.
#
# Whether a real difference is enough to change what the model says is another question:
# `01_find_a_refusal_circuit` asked it.
