"""Factual tasks: does the model still prefer the right word?"""

from __future__ import annotations

from cna_lens.errors import InputError
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.prompts.sets import PromptSet
from cna_lens.models.running.predictions import answers_after_prompts, predicted_log_probs


def factual_accuracy(model: HookedModel, task: PromptSet) -> list[bool]:
    """Whether the right word is likelier than the wrong one, prompt by prompt.

    After a positive prompt the target is right and the foil wrong, after a negative one the other
    way round. A word of several tokens counts by the sum of its tokens' log-probabilities.

    >>> from cna_lens import prompt_set
    >>> len(factual_accuracy(tiny_model, prompt_set("agreement")))
    80

    Args:
        model: a TransformerBridge or HookedTransformer; inside `steer`, the steered model.
        task: a prompt set with targets and foils, such as `prompt_set("capitals")`.

    Returns:
        First the positive prompts, then the negative ones.

    Raises:
        InputError: the prompt set has no targets.
    """
    if not task.targets:
        raise InputError(
            f"the prompt set {task.name!r} has no targets; take 'capitals' or 'agreement'"
        )
    prompts = [*task.positive, *task.negative]
    right = _log_prob(model, prompts, [*task.targets, *task.foils])
    wrong = _log_prob(model, prompts, [*task.foils, *task.targets])
    return [a > b for a, b in zip(right, wrong, strict=True)]


def _log_prob(model: HookedModel, prompts: list[str], words: list[str]) -> list[float]:
    texts = answers_after_prompts(model, prompts, words, chat=False)
    return [float(log_probs.sum()) for log_probs in predicted_log_probs(model, texts)]
