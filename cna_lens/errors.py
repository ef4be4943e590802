"""What can go wrong, by name: every error says what was given, what was expected and the mend."""

from __future__ import annotations


class CnaLensError(Exception):
    """The base of every error that cna_lens raises on purpose."""


class InputError(CnaLensError, ValueError):
    """An argument has a value that cannot be used."""


class ModelError(CnaLensError, ValueError):
    """A model cannot be used: it lacks the hook points, or could not be loaded."""


class ActivationError(CnaLensError, ArithmeticError):
    """A model produced activations that are not finite."""


class CircuitFileError(CnaLensError, ValueError):
    """A circuit file is truncated, altered, or of another version."""


class CircuitMismatchError(CnaLensError, ValueError):
    """A circuit was found on another model than the one it is applied to."""


class VectorMismatchError(CnaLensError, ValueError):
    """A vector was found on another model than the one it is applied to."""


class FingerprintError(CnaLensError, ValueError):
    """A fingerprint is damaged, not signed as it must be, or of another model."""


class JudgeError(CnaLensError, RuntimeError):
    """An endpoint that should judge or answer cannot be used: no package, key, model or server."""


class GenerationInterrupted(KeyboardInterrupt):
    """Generation was interrupted; what had been finished is kept.

    Attributes:
        finished: the answers in the order of the prompts, None where an answer was not finished.
    """

    def __init__(self, finished: list[str | None]) -> None:
        """Keep the finished answers."""
        done = sum(text is not None for text in finished)
        super().__init__(f"generation was interrupted with {done} of {len(finished)} answers done")
        self.finished = finished


class CnaLensWarning(UserWarning):
    """Something that is allowed, but is rarely meant."""
