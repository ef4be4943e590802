"""Have answers judged by an OpenAI-compatible endpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from cna_lens.metrics.endpoint_client import Completion, Messages, Usage, complete_all
from cna_lens.metrics.judge_rubric import Judgement, Missing, parse_verdict, question
from cna_lens.metrics.judge_settings import Judge

__all__ = ["Usage", "ask_all"]


def ask_all(
    judge: Judge,
    answers: Mapping[str, tuple[str, str]],
    done: Callable[[str, Judgement | Missing], None],
) -> Usage:
    """Have answers judged, at most `max_concurrency` at once.

    Args:
        judge: who judges.
        answers: prompt and answer by key.
        done: called with a key and its result as soon as there is one.

    Raises:
        JudgeError: a package or the key is missing, nothing listens at the address, or the
            endpoint refuses all requests.
    """

    def read(reply: Completion) -> Judgement | Missing:
        if reply.is_cut_off:
            return Missing("reply cut off: length")
        result = parse_verdict(reply.text)
        return replace(result, tokens=reply.tokens) if isinstance(result, Judgement) else result

    conversations: dict[str, Messages] = {
        key: [
            {"role": "system", "content": judge.rubric},
            {"role": "user", "content": question(prompt, answer)},
        ]
        for key, (prompt, answer) in answers.items()
    }
    return complete_all(judge, conversations, read, done)
