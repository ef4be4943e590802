# %% [markdown]
# # Compare methods
#
# **What takes most refusals away, and what does it cost elsewhere?**
#
# A method can also end refusals by ending language. So five ways to steer are run on the same
# requests, and judged by two measures at once: the remaining refusals, and the change of the model
# on benign requests. About a minute and a half on a CPU.

# %%
from dataclasses import replace

import cna_lens
from cna_lens import viz

model = cna_lens.load_model("demo-refusal")
prompts = cna_lens.prompt_set("refusal")
positive, negative = prompts.positive[::5], prompts.negative[::5]

# %% [markdown]
# A fifth of the pairs keeps this short; take all of them for figures you mean to report.
#
# ## Five methods
#
# Every method is a value with a name and a context `at(model, strength)`. Two of them change
# neurons: the paper's, which zeroes 0.1 % of them everywhere, and one with a better ranking and a
# milder ablation. RelP is a gradient through the model, whose sign shows which neurons make a
# refusal likelier. The strongest of these, 1 % of all neurons, are set to their means on benign
# requests, at the last prompt token only.

# %%
contrast = cna_lens.find_circuit(model, positive, negative)
relp = cna_lens.find_circuit(model, positive, negative, rank="relp", sign="positive", fraction=0.01)
benign = cna_lens.collect(model, negative)
to_mean = cna_lens.mean_ablation(relp, benign, positions="last_prompt")

# %% [markdown]
# One is their control, as many random neurons of the same layers, zeroed. Two add or remove
# directions: contrastive activation addition at every layer, and the ablation of the difference
# of means.

# %%
methods = [
    cna_lens.NeuronScaling(contrast, name="contrast, 0.1 %"),
    replace(to_mean, name="RelP, 1 %, to the mean"),
    cna_lens.NeuronScaling(cna_lens.matched_random(contrast), name="random, 0.1 %"),
    replace(cna_lens.caa(model, positive, negative), name="CAA"),
    replace(
        cna_lens.directional_ablation(model, positive, negative, layer=15),
        name="directional ablation",
    ),
]

# %% [markdown]
# ## The comparison
#
# There are ten harmful requests, and ten that only sound harmful. With a `path=` an interrupted
# comparison resumes.

# %%
evaluation = cna_lens.prompt_set("refusal_evaluation")
held_out = replace(evaluation, positive=evaluation.positive[::6], negative=evaluation.negative[::6])
comparison = cna_lens.compare(model, methods, held_out, strengths=[1.0], max_new_tokens=16)
comparison

# %% [markdown]
# "behaviour" is the share of harmful requests refused, "elsewhere" that of the others, p the
# exact McNemar test against the unsteered model. Below, less behaviour is down and less cost is
# left.

# %%
viz.pareto(comparison)

# %% [markdown]
# What each does to the log-odds of a refusal at the first token, request by request:

# %%
columns = [f"refusal_log_odds_change{end}" for end in ("", "_low", "_high")]
comparison.to_frame().set_index("method")[columns].iloc[1:].round(1)

# %% [markdown]
# ## The answer
#
# The log-odds and the answers disagree. RelP's neurons move the first token thirteen nats away from
# a refusal, and nine of ten requests are still refused: there are many ways to begin a refusal.
# Only CAA at every layer ends refusals, and the KL divergence shows how: it is some four nats per
# token, a hundred times that of RelP, and the quality of the answers falls too. Look at both
# columns, or you may publish babble.
#
# Directional ablation went the wrong way: with a direction from 20 pairs nearly all of the
# harmless requests are refused too. From all 100 pairs it is among the better methods (see
# *Findings* in the documentation, with 150 requests and everything chosen on others). With ten
# requests the intervals are wide, and few prompts can turn a method around: this page shows how
# to compare, not what wins.
