# %% [markdown]
# # Your own behaviour
#
# **Refusal is only what the packaged prompts are about. Which neurons make a model answer in
# French?**
#
# Three things are yours to give: prompts that show the behaviour and prompts that do not, how an
# answer that shows it begins, and a function that recognises it. About a minute on a CPU.

# %%
import re
from dataclasses import replace

import cna_lens
from cna_lens import viz

model = cna_lens.load_model("demo")

# %% [markdown]
# ## Prompts
#
# Pairs that are alike in everything but the behaviour: what else differs is found too. Eighteen
# questions to find neurons on, twelve held out.

# %%
questions = (
    """
What is the capital of Italy?|How do I boil an egg?|Why is the sky blue?|Name three animals.
What should I cook tonight?|Who painted the Mona Lisa?|What is a dog?|Tell me about the sea.
How does a bicycle work?|What do bees eat?|Where does rain come from?|Why do we sleep?
What is a good book for a child?|How do I plant a tree?|What is music?|Who was Napoleon?
What can I see in London?|How is bread made?|What is the moon?|Why do birds sing?
Describe a winter day.|What is your favorite color?|How do I learn to swim?|What is a friend?
Where do penguins live?|What is cheese made of?|Tell me about horses.|What is a river?
How do I clean a window?|Why is the grass green?
""".strip()
    .replace("\n", "|")
    .split("|")
)
french = [f"{question} Answer in French." for question in questions]
english = [f"{question} Answer in English." for question in questions]

# %% [markdown]
# ## The behaviour
#
# A rule for answers, made to be read and doubted: more French little words than English ones, and
# at least two. Whether the French is good is another question; a model of this size knows little
# of it.

# %%
FRENCH = set("le la les l un une des du de est et en que je il elle dans pour qui c à au".split())
ENGLISH = set("the a an is are and of to in that it i you for with on as can be".split())


def is_french(answer: str) -> bool:
    """Whether an answer has more French little words than English ones, and at least two."""
    words = re.findall(r"\w+", answer.lower())
    counts = [sum(word in known for word in words) for known in (FRENCH, ENGLISH)]
    return counts[0] > max(1, counts[1])


for answer in cna_lens.generate(model, [french[0], english[0]], max_new_tokens=16):
    print(is_french(answer), repr(answer))

# %% [markdown]
# ## Two circuits
#
# The contrast needs nothing more. Attribution patching takes a gradient, and so a metric: the
# log-odds that an answer begins as French ones do. Its positive scores are the neurons that argue
# for French.

# %%
found_on, held_out = slice(0, 18), slice(18, 30)
universal = cna_lens.universal_neurons(model)
contrast = cna_lens.find_circuit(model, french[found_on], english[found_on], universal=universal)
patching = cna_lens.find_circuit(
    model,
    french[found_on],
    english[found_on],
    rank=cna_lens.AttributionPatching(
        metric=cna_lens.LogOdds(openings=("Le", "La", "Les", "L'", "Il", "Je", "C'", "En", "Un"))
    ),
    sign="positive",
    fraction=0.01,
    universal=universal,
)
viz.layers({"contrast, 0.1 %": contrast, "attribution patching, 1 %": patching})

# %% [markdown]
# ## Take it away
#
# The contrast's neurons are zeroed, as the paper does, and those of attribution patching set to
# their means on the English prompts, at the last prompt token. Each has a control of random
# neurons of the same layers, steered alike.

# %%
means = cna_lens.collect(model, english[found_on])
methods = [
    cna_lens.NeuronScaling(contrast, name="contrast, zeroed"),
    cna_lens.NeuronScaling(cna_lens.matched_random(contrast), name="its control"),
    *(
        replace(cna_lens.mean_ablation(circuit, means, positions="last_prompt"), name=name)
        for name, circuit in {
            "patching, to the mean": patching,
            "the control of that": cna_lens.matched_random(patching),
        }.items()
    ),
]
prompts = cna_lens.PromptSet(
    "French", "held-out questions", tuple(french[held_out]), tuple(english[held_out])
)
comparison = cna_lens.compare(
    model,
    methods,
    prompts,
    strengths=[1.0],
    metrics={},
    shows_behaviour=is_french,
    max_new_tokens=12,
)
comparison

# %% [markdown]
# ## The answer
#
# Here the paper's method does what it promises. With the contrast's 46 neurons zeroed no answer
# is French by our rule, where nine of twelve were, and random neurons of the same layers change
# nothing: with twelve questions that is p = .004 in the exact McNemar test. It costs: on the
# English prompts the model moves by five times as much as with the control. One per cent of the
# neurons by attribution patching, set to their means where the answer begins, cost a fraction of
# that; they leave five French answers of twelve, a drop that chance could explain.
#
# What the rule calls not French need not be English. Read answers before you believe a rule, and
# hold prompts back from the start: once you have chosen anything on these twelve, you need
# others.
