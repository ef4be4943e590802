"""Keep what lm-eval changes in the process and in the model from outliving its run."""

from __future__ import annotations

import io
import logging
import os
import random
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import numpy as np
import torch


class CutInputs(logging.Handler):
    """Counts the inputs that lm-eval shortened to fit the context, which it only logs."""

    def __init__(self) -> None:
        """Begin at none."""
        super().__init__()
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Look at one message."""
        self.count += "truncat" in record.getMessage().casefold()


@contextmanager
def process_left_as_it_was(seed: int, *, progress: bool) -> Generator[CutInputs]:
    """Seed every random generator inside, and put back what was there before.

    lm-eval seeds the generators of Python, numpy and torch, sets environment variables, prints
    and logs. All of it ends with this context.

    Args:
        seed: for all generators.
        progress: let progress bars and messages through.
    """
    with ExitStack() as stack:
        stack.enter_context(_environment())
        stack.enter_context(_random_generators(seed))
        if not progress:
            stack.enter_context(redirect_stdout(io.StringIO()))
            stack.enter_context(redirect_stderr(io.StringIO()))
        yield stack.enter_context(_messages(progress))


@contextmanager
def weights_left_as_they_are(module: Any) -> Generator[None]:
    """Let nothing tie the module's weights inside.

    lm-eval ties them when it takes a model. Where TransformerLens has folded a layer norm into
    the unembedding, that would overwrite the unembedding with the embedding.
    """
    module.tie_weights = _do_nothing
    try:
        yield
    finally:
        del module.tie_weights


def _do_nothing(*_: Any, **__: Any) -> None:
    pass


@contextmanager
def _environment() -> Generator[None]:
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _random_generators(seed: int) -> Generator[None]:
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def _messages(progress: bool) -> Generator[CutInputs]:
    logger = logging.getLogger("lm_eval")
    level, propagates, cut = logger.level, logger.propagate, CutInputs()
    # A user who silenced lm-eval should hear of shortened inputs all the same.
    logger.setLevel(min(logger.getEffectiveLevel(), logging.WARNING))
    logger.propagate = propagates and progress
    logger.addHandler(cut)
    try:
        yield cut
    finally:
        logger.removeHandler(cut)
        logger.propagate = propagates
        logger.setLevel(level)
