"""The command `play`: ask a loaded model at a terminal, with and without steering."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from cna_lens.cli.options import Precision, load_quietly
from cna_lens.cli.play.loop import Loop
from cna_lens.cli.play.player import Player
from cna_lens.cli.play.settings import Settings
from cna_lens.cli.render import console
from cna_lens.errors import CnaLensError
from cna_lens.models.prompts.files import Prompts
from cna_lens.models.prompts.sets import prompt_set
from cna_lens.results.circuit import Circuit
from cna_lens.steering.scaling import check_multiplier


def run(
    model: str,
    circuit: Path,
    *,
    multiplier: float,
    length: int,
    discovery: tuple[Prompts, Prompts] | None = None,
    dtype: Precision = "float32",
    device: str | None = None,
    allow_other_model: bool = False,
) -> None:
    """Load the model once, and answer typed prompts until input ends.

    Raises:
        CnaLensError: the extra `play` is not installed.
        InputError: the multiplier is infinite or not a number, or the circuit is empty.
        CircuitMismatchError: the circuit was found on another model.
    """
    if find_spec("prompt_toolkit") is None:
        raise CnaLensError(
            "cna-lens play needs prompt_toolkit; install it with pip install 'cna-lens[play]'"
        )
    from prompt_toolkit import PromptSession

    check_multiplier(multiplier)
    loaded_circuit = Circuit.load(circuit)
    packaged = prompt_set("refusal")
    player = Player(
        load_quietly(model, device, dtype),
        loaded_circuit,
        discovery or (packaged.positive, packaged.negative),
        allow_other_model=allow_other_model,
    )
    settings = Settings(multiplier, k=len(loaded_circuit), length=length)
    console.print(f"{loaded_circuit!r}\n{settings}; /help shows the commands", markup=False)
    # The history stays in memory: prompts may be as harmful as answers.
    session: PromptSession[str] = PromptSession()
    Loop(player, settings, console).run(lambda: session.prompt("> "))
