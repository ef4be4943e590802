"""Models for Inspect: loaded by `load_model`, steered by a circuit, answering in batches."""
# Inspect comes with the extra `inspect`, and its own environment.
# pyright: reportMissingImports=false, reportUntypedBaseClass=false

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    Logprob,
    Logprobs,
    ModelAPI,
    ModelInfo,
    ModelOutput,
    ModelUsage,
    TopLogprob,
    set_model_info,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from cna_lens.cli.inspect.arguments import Arguments
from cna_lens.cli.inspect.batches import Batches
from cna_lens.errors import InputError
from cna_lens.models.hooked_model import HookedModel, model_name
from cna_lens.models.prompts.encoding import Prompt, TokenIds, encode
from cna_lens.models.running.decoding import seeds_of
from cna_lens.models.running.request import check_settings
from cna_lens.models.tokens.scored_answers import AnswerSettings, ScoredAnswer, scored_answers
from cna_lens.models.tokens.token_texts import check_k, lone_token_texts

MAX_TOKENS = 1024
"""The longest answer, in tokens, where neither the task nor the user says another length."""

LEAST = -9999.0
"""What stands for the log-probability of an impossible token, since JSON has no infinity."""

NOT_OBEYED = (
    *("best_of", "effort", "extra_body", "frequency_penalty", "logit_bias", "modalities"),
    *("num_choices", "presence_penalty", "prompt_logprobs", "reasoning_effort", "reasoning_mode"),
    *("reasoning_tokens", "response_schema", "top_k", "verbosity"),
)
"""Settings of Inspect that would change answers, and that `generate` does not have."""

# One pass at a time, also where two models of Inspect are one model of TransformerLens.
_passes = Lock()


@dataclass(frozen=True)
class _Asked:
    ids: TokenIds
    settings: AnswerSettings
    seed: int


class SteeredModel(ModelAPI):
    """A TransformerLens model as Inspect asks it, steered while it answers."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008
        **model_args: Any,
    ) -> None:
        """Load the model, and check that the circuit can steer it.

        Args:
            model_name: for `cna_lens.load_model`.
            base_url: of Inspect, without a meaning here.
            api_key: of Inspect, without a meaning here.
            config: how to generate; each call has its own.
            **model_args: see `Arguments`.

        Raises:
            InputError: an argument is unknown or has a bad value.
            ModelError: the model is not available.
            CircuitMismatchError: the circuit was found on another model.
        """
        super().__init__(model_name, base_url, api_key, [], config)
        self.arguments = Arguments.read(model_args)
        self.hooked: HookedModel = self.arguments.load(model_name)
        with self.arguments.steering(self.hooked) as steering:
            self.record = self.arguments.record(self.hooked)
            if steering is not None:
                self.record["via"] = steering.via
        # Inspect would make, and so load, a second model to look its context up.
        context = getattr(self.hooked.cfg, "n_ctx", None)
        set_model_info(
            f"cna/{model_name}",
            ModelInfo(context_length=context, output_tokens=context),
        )
        self._answered: Counter[TokenIds] = Counter()
        self._batches = Batches(self._answers, self.arguments.batch_size)

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,  # noqa: ARG002
        config: GenerateConfig,
    ) -> ModelOutput:
        """Answer one sample; samples that are asked at the same time run as a batch."""
        if tools:
            names = ", ".join(tool.name for tool in tools)
            raise InputError(
                f"the task gives the tools {names}, and cna models use no tools; run a task "
                "without tools"
            )
        started = time.monotonic()
        ids = self._encoded(input)
        settings = self._settings(config, len(ids))
        answer = await self._batches(_Asked(ids, settings, self._seed(ids, config.seed)))
        return self._output(answer, len(ids), settings, config, time.monotonic() - started)

    def max_tokens(self) -> int:
        """The longest answer where nothing else is said."""
        return MAX_TOKENS

    def max_connections(self) -> int:
        """As many samples at once as fit a batch."""
        return self.arguments.batch_size

    def collapse_user_messages(self) -> bool:
        """Chat templates may reject two messages of one role in a row."""
        return True

    async def count_text_tokens(self, text: str) -> int:
        """Count with the model's own tokenizer."""
        return len(encode(self.hooked, [text], chat=False).ids[0]) if text else 0

    def _answers(self, asked: list[_Asked]) -> list[ScoredAnswer]:
        found: dict[int, ScoredAnswer] = {}
        with _passes, self.arguments.steering(self.hooked):
            for settings in dict.fromkeys(each.settings for each in asked):
                places = [at for at, each in enumerate(asked) if each.settings == settings]
                answers = scored_answers(
                    self.hooked,
                    [asked[at].ids for at in places],
                    settings,
                    [asked[at].seed for at in places],
                )
                found |= dict(zip(places, answers, strict=True))
        return [found[at] for at in range(len(asked))]

    def _encoded(self, messages: Sequence[ChatMessage]) -> TokenIds:
        given = [{"role": _role(message), "content": _text(message)} for message in messages]
        has_template = getattr(self.hooked.tokenizer, "chat_template", None) is not None
        texts = "\n\n".join(message["content"] for message in given)
        prompt: Prompt = given if has_template else texts
        return encode(self.hooked, [prompt]).ids[0]

    def _settings(self, config: GenerateConfig, n_prompt: int) -> AnswerSettings:
        if given := [name for name in NOT_OBEYED if getattr(config, name, None) is not None]:
            raise InputError(
                f"{given[0]} is {getattr(config, given[0])!r}, and cna models do not have it; "
                "leave it out"
            )
        asked = MAX_TOKENS if config.max_tokens is None else config.max_tokens
        temperature = float(config.temperature or 0.0)
        top_p = 1.0 if config.top_p is None else config.top_p
        check_settings(asked, temperature, top_p)
        k = (config.top_logprobs or 0) if config.logprobs else 0
        if k:
            check_k(self.hooked, k)
        context = getattr(self.hooked.cfg, "n_ctx", None)
        room = asked if context is None else min(asked, int(context) - n_prompt)
        if room < 1:
            raise InputError(
                f"the prompt has {n_prompt} tokens, and the context of {model_name(self.hooked)} "
                f"holds {context}, so that there is no room for an answer; shorten the prompt"
            )
        return AnswerSettings(
            room, temperature, top_p, tuple(config.stop_seqs or ()), bool(config.logprobs), k
        )

    def _seed(self, ids: TokenIds, seed: int | None) -> int:
        """A seed that does not depend on the batch, and that epochs of a sample do not share."""
        self._answered[ids] += 1
        return seeds_of([ids] * self._answered[ids], seed or 0)[-1]

    def _output(
        self,
        answer: ScoredAnswer,
        n_prompt: int,
        settings: AnswerSettings,
        config: GenerateConfig,
        seconds: float,
    ) -> ModelOutput:
        in_full = settings.max_new_tokens == (config.max_tokens or MAX_TOKENS)
        reason = "stop" if not answer.is_cut else "max_tokens" if in_full else "model_length"
        choice = ChatCompletionChoice(
            message=ChatMessageAssistant(
                content=answer.text, model=self.model_name, source="generate"
            ),
            stop_reason=reason,
            logprobs=self._log_probs(answer),
        )
        return ModelOutput(
            model=self.model_name,
            choices=[choice],
            usage=ModelUsage(
                input_tokens=n_prompt,
                output_tokens=len(answer.ids),
                total_tokens=n_prompt + len(answer.ids),
            ),
            time=seconds,
            metadata={"cna_lens": self.record},
        )

    def _log_probs(self, answer: ScoredAnswer) -> Logprobs | None:
        if answer.predictions is None:
            return None
        tokens = lone_token_texts(self.hooked, answer.ids)
        return Logprobs(
            content=[
                Logprob(
                    token=token,
                    logprob=max(LEAST, predicted.log_prob),
                    top_logprobs=[
                        TopLogprob(token=text, logprob=max(LEAST, log_prob))
                        for text, log_prob in predicted.likeliest
                    ],
                )
                for token, predicted in zip(tokens, answer.predictions, strict=True)
            ]
        )


def _role(message: ChatMessage) -> str:
    if message.role not in ("system", "user", "assistant"):
        raise InputError(f"a message has the role {message.role!r}, and cna models use no tools")
    return message.role


def _text(message: ChatMessage) -> str:
    parts = [] if isinstance(message.content, str) else message.content
    kinds = {part.type for part in parts} - {"text", "reasoning"}
    if kinds:
        raise InputError(
            f"a message of the {message.role} holds {', '.join(sorted(kinds))}; cna models read "
            "text alone"
        )
    return message.text
