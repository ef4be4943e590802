"""Compile programs into transformers, and score rankings against neurons that are known exactly.

pip install tracr-pypi
python -m experiments.compiled compile
python -m experiments.compiled rank
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

import cna_lens
from cna_lens.models import COMPILED_FOLDER, COMPILED_INDEX, CompiledProgram
from cna_lens.results import json_text, library_versions, write_atomically
from experiments.compiled.exact import figures
from experiments.compiled.programs import MAX_TOKENS, PROGRAMS, prompts

BEGINNING = "begin"

app = typer.Typer(help="Programs compiled into transformers.")


@app.command("compile")
def compile_command() -> None:
    """Compile all programs, and write them into the package."""
    hashes = {
        name: compiled(name).save(COMPILED_FOLDER / f"{name}.safetensors")
        for name in sorted(PROGRAMS)
    }
    text = json.dumps(hashes, indent=1, sort_keys=True) + "\n"
    write_atomically(COMPILED_FOLDER / COMPILED_INDEX, text)


@app.command("rank")
def rank_command(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("out/compiled"),
) -> None:
    """Score all rankings, and the exact effect of each neuron, against what was compiled."""
    record = {
        "command": "python -m experiments.compiled rank",
        "versions": dict(library_versions()),
        "figures": [row for name in cna_lens.compiled_programs() for row in figures(name)],
    }
    write_atomically(
        out / "compiled_programs.json", json_text(record, indent=1, sort_keys=False) + "\n"
    )
    for row in record["figures"]:
        typer.echo(json.dumps(row))


def compiled(name: str) -> CompiledProgram:
    """Compile one program by tracr, and turn its weights into those of a native bridge."""
    from tracr.compiler import compiling
    from tracr.rasp import rasp
    from transformer_lens.utilities.tracr import make_tracr_transformer_bridge_state_dict

    program = PROGRAMS[name]
    made: Any = compiling.compile_rasp_to_model(
        program.expression(rasp),
        set(program.letters),
        MAX_TOKENS,
        causal=True,
        compiler_bos=BEGINNING,
    )
    if made.model_config.num_heads != 1:
        raise ValueError(f"{name} has {made.model_config.num_heads} heads in a layer, expected 1")
    # The last variable has the name of the first cause.
    variable = program.causes[0].partition(":")[0]
    (label,) = {
        each.rpartition(":")[0]
        for each in made.residual_labels
        if re.fullmatch(rf"{variable}_\d+:.*", each)
    }
    weights = make_tracr_transformer_bridge_state_dict(made, label)
    weights["head.bias"] = torch.zeros(len(weights["head.weight"]))
    ids, outputs = made.input_encoder.encoding_map, made.output_encoder.encoding_map
    positive, negative = prompts(program)

    def encoded(texts: Any) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(ids[token] for token in (BEGINNING, *text)) for text in texts)

    return CompiledProgram(
        description=program.description,
        tokens=tuple(sorted(ids, key=ids.get)),
        outputs=tuple(str(each) for each in sorted(outputs, key=outputs.get)),
        # tracr numbers its variables, as in pair_1:0.
        directions=tuple(re.sub(r"_\d+(?=:|$)", "", each) for each in made.residual_labels),
        causes=program.causes,
        positive=encoded(positive),
        negative=encoded(negative),
        weights={key: value.contiguous() for key, value in weights.items()},
    )


if __name__ == "__main__":
    app()
