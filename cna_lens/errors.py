"""Errors and warnings; each message names the value, the expectation and the fix."""

from __future__ import annotations


class CnaLensError(Exception):
    """The base of every error that cna_lens raises on purpose."""


class InputError(CnaLensError, ValueError):
    """An argument has an invalid value."""


class ModelError(CnaLensError, ValueError):
    """A model could not be loaded, or lacks hook points that are needed."""


class ActivationError(CnaLensError, ArithmeticError):
    """A model produced activations that are not finite."""


class CircuitFileError(CnaLensError, ValueError):
    """A circuit file is truncated, altered, or of another version."""


class CircuitMismatchError(CnaLensError, ValueError):
    """A circuit is applied to another model than the one on which it was found."""


class VectorMismatchError(CnaLensError, ValueError):
    """A vector is applied to another model than the one on which it was found."""


class FingerprintError(CnaLensError, ValueError):
    """A fingerprint, or a signed file, is damaged, lacks its signature, or is of another model."""


class JudgeError(CnaLensError, RuntimeError):
    """An endpoint cannot judge or answer: the package, key, model or server is missing."""


class HubError(CnaLensError, RuntimeError):
    """The Hugging Face Hub lacks what is asked for, refuses it, or cannot be reached."""


class GenerationInterrupted(KeyboardInterrupt):
    """Generation was interrupted; finished answers are kept.

    Attributes:
        finished: the answers in the order of the prompts, None for an unfinished one.
    """

    def __init__(self, finished: list[str | None]) -> None:
        """Keep the finished answers."""
        done = sum(text is not None for text in finished)
        super().__init__(f"generation was interrupted with {done} of {len(finished)} answers done")
        self.finished = finished


class CnaLensWarning(UserWarning):
    """An allowed setting or state that is rarely intended."""
