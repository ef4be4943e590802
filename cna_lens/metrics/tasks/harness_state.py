"""Restore what a run of lm-eval changes in the process and in the model."""

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
    """Counts the inputs that lm-eval cut to fit the context, which it only logs."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Count a message about a cut input."""
        self.count += "truncat" in record.getMessage().casefold()


@contextmanager
def process_left_as_it_was(seed: int, *, progress: bool) -> Generator[CutInputs]:
    """Seed every random generator, and restore the process at the end of the context.

    lm-eval seeds the generators of Python, NumPy and torch, sets environment variables, prints and
    logs.

    Args:
        seed: the seed of all generators.
        progress: show progress bars and messages.
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
    """Prevent lm-eval from tying the module's weights.

    lm-eval ties the weights of every model that it wraps. If TransformerLens has folded a layer
    norm into the unembedding, this would overwrite the unembedding with the embedding.
    """
    module.tie_weights = lambda *_, **__: None
    try:
        yield
    finally:
        del module.tie_weights


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
    # A user who silenced lm-eval should still be warned of cut inputs.
    logger.setLevel(min(logger.getEffectiveLevel(), logging.WARNING))
    logger.propagate = propagates and progress
    logger.addHandler(cut)
    try:
        yield cut
    finally:
        logger.removeHandler(cut)
        logger.propagate = propagates
        logger.setLevel(level)
