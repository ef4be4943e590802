# %% [markdown]
# # Read a neuron
#
# **A ranking names a neuron. What does it do?**
#
# Four looks at one neuron: where it is active, on which prompts most, which tokens it writes, and
# what becomes of an answer without it. Half a minute on a CPU.

# %%
import pandas as pd

import cna_lens
from cna_lens import viz
from cna_lens.metrics import refusal_log_odds

model = cna_lens.load_model("demo-refusal")
viz.share_bundle()  # CircuitsVis, once for all views of this page

# %% [markdown]
# Attribution patching multiplies what differs with the gradient of the log-odds of a refusal. Its
# positive scores are the neurons that make a refusal likelier; the first of them is ours.

# %%
prompts = cna_lens.prompt_set("refusal_small")
circuit = cna_lens.find_circuit(
    model, prompts.positive, prompts.negative, rank="attribution_patching", sign="positive", k=12
)
neuron = circuit.neurons[0]
circuit

# %% [markdown]
# ## Where is it active?
#
# Two harmful requests and two that only sound harmful, in the chat template. Blue is positive,
# orange negative; the picker has the next strongest neurons.

# %%
held_out = cna_lens.prompt_set("refusal_evaluation")
viz.tokens(model, circuit, [*held_out.positive[:2], *held_out.negative[:2]], strongest=6)

# %% [markdown]
# ## On which prompts most?
#
# Among 40 prompts with nothing in common and 20 harmful requests:

# %%
viz.top_examples(model, neuron, [*cna_lens.diverse_prompts(), *held_out.positive[:20]], n=5)

# %% [markdown]
# ## Which tokens does it write?

# %%
viz.promotes(model, neuron, k=8)

# %% [markdown]
# That is its direct effect on the next token. A neuron in a middle layer is read by later layers
# first, and may write nothing that a reader would recognise.
#
# ## What happens without it?
#
# The log-odds of a refusal on 20 held-out harmful requests, when its activation is multiplied,
# beside a random neuron of its layer.

# %%
requests = held_out.positive[:20]
alone = cna_lens.Circuit((neuron,), (1.0,), circuit.layout, circuit.provenance)
random = cna_lens.matched_random(alone, seed=0)
before = refusal_log_odds(model, requests)
rows = {}
for multiplier in (-1.0, 0.0, 2.0):
    for name, which in (("this neuron", alone), ("a random one", random)):
        with cna_lens.steer(model, which, multiplier):
            change = cna_lens.paired_bootstrap(before, refusal_log_odds(model, requests))
        rows[f"{name}, m = {multiplier:g}"] = str(change)
pd.Series(rows, name="change of log-odds (nats)").to_frame()

# %% [markdown]
# ## And to a whole answer?
#
# A refusal, written by us, token by token: how likely each is without steering, and with all
# twelve neurons of the circuit ablated.

# %%
refusal = "I'm sorry, but I can't help with that."
found = cna_lens.answer_log_probs(
    model, lambda: cna_lens.steer(model, circuit, 0.0), requests[:1], [refusal], k=5
)
viz.log_probs(found)

# %% [markdown]
# ## The answer
#
# What the neuron does is plain: without it the log-odds of a refusal fall by more than a nat, and
# a random neuron of its layer changes them by a hundredth of that at most. What it *is* is not
# plain. It is most active on a request for a translation and a question about grammar, as much as
# on harmful ones, and what it writes are beginnings of long words. It is no refusal neuron; it is
# one that refusals use.
#
# And a refusal that has been written is another thing than the odds of its first token: with all
# twelve neurons ablated its words are about as likely as before, but for one.
