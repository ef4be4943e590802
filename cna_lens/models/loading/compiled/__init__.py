"""Compiled programs: small transformers whose every weight was written by a compiler.

tracr (arXiv 2301.05062) compiles a program into a transformer, so that it is known which neuron
computes which value of which variable. A file beside this module holds the weights of one program.
`experiments.compiled` writes these files.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jaxtyping import Float
from torch import Tensor

from cna_lens.errors import InputError, ModelError
from cna_lens.results.circuit import Circuit
from cna_lens.results.files import file_sha256, write_atomically
from cna_lens.results.layout import Layout
from cna_lens.results.neurons import Neuron
from cna_lens.results.provenance import Provenance

if TYPE_CHECKING:
    from collections.abc import Mapping

COMPILED_FOLDER: Final = Path(__file__).parent
COMPILED_PREFIX: Final = "compiled/"
COMPILED_INDEX: Final = "index.json"
"""The hash of each program's file, by the program's name without its prefix."""
COMPILED_FORMAT: Final = "cna_lens.compiled 1"

Ids = tuple[int, ...]


@dataclass(frozen=True)
class CompiledProgram:
    """A program, its weights, prompts on which its last output is 1, and others on which it is 0.

    >>> program = compiled_program("compiled/pair")
    >>> program.description
    'whether the last two tokens are ab, bc or ca'
    >>> "".join(program.tokens[i] for i in program.positive[0][-2:]) in ("ab", "bc", "ca")
    True

    Attributes:
        description: what it computes.
        tokens: the token of each id.
        outputs: the output of each logit.
        directions: the name of each direction of the residual stream, "variable:value".
        causes: directions of which each is needed: with the neurons that write to one of them at 0,
            no positive prompt gives 1.
        positive: prompts as token ids, whose last output is 1.
        negative: the same prompts with one token changed, so that the last output is 0.
        weights: by their names in a native TransformerBridge.
    """

    description: str
    tokens: tuple[str, ...]
    outputs: tuple[str, ...]
    directions: tuple[str, ...]
    causes: tuple[str, ...]
    positive: tuple[Ids, ...] = field(repr=False)
    negative: tuple[Ids, ...] = field(repr=False)
    weights: Mapping[str, Tensor] = field(repr=False)

    @property
    def layout(self) -> Layout:
        """The program's neurons; those that it does not need have weights of 0."""
        return Layout(tuple(written.shape[1] for written in self._written()))

    def writers(self, *directions: str) -> tuple[Neuron, ...]:
        """The neurons that write to a direction, whether they add to it or take from it.

        Directions that attention alone writes to have none.

        >>> [tuple(each) for each in compiled_program("compiled/pair").writers("pair:1")]
        [(0, 1), (0, 8), (0, 12)]

        Args:
            directions: names such as "vowel:1"; "vowel:" stands for each value of vowel.

        Raises:
            InputError: the program has no such direction.
        """
        chosen: set[int] = set()
        for name in directions:
            found = {
                place
                for place, each in enumerate(self.directions)
                if each == name or (name.endswith(":") and each.startswith(name))
            }
            if not found:
                raise InputError(
                    f"the program has no direction {name!r}; there are: "
                    f"{', '.join(self.directions)}"
                )
            chosen |= found
        rows = sorted(chosen)
        return tuple(
            Neuron(layer, index)
            for layer, written in enumerate(self._written())
            for index in written[rows].ne(0).any(0).nonzero()[:, 0].tolist()
        )

    def _written(self) -> list[Float[Tensor, "d_model neuron"]]:
        n_layers = sum(name.endswith("mlp.fc_out.weight") for name in self.weights)
        return [self.weights[f"layers.{layer}.mlp.fc_out.weight"] for layer in range(n_layers)]

    def save(self, path: Path) -> str:
        """Write the program, and return the hash of the file."""
        from safetensors.torch import save

        said = {each.name: getattr(self, each.name) for each in fields(self)}
        del said["weights"]
        about = json.dumps({"format": COMPILED_FORMAT, **said}, sort_keys=True)
        write_atomically(path, save(dict(self.weights), {"program": about}))
        return file_sha256(path)

    @classmethod
    def load(cls, path: Path) -> CompiledProgram:
        """Read a file that `save` wrote.

        Raises:
            ModelError: the file is missing or is no such file.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                said = json.loads((file.metadata() or {}).get("program", "{}"))
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, ValueError) as error:
            raise ModelError(
                f"{path} cannot be read as a compiled program: {error}; reinstall cna_lens"
            ) from error
        found = said.pop("format", None)
        if found != COMPILED_FORMAT:
            raise ModelError(
                f"{path} holds no compiled program: its format is {found!r}, expected "
                f"{COMPILED_FORMAT!r}; reinstall cna_lens"
            )
        for name in ("tokens", "outputs", "directions", "causes"):
            said[name] = tuple(said[name])
        for name in ("positive", "negative"):
            said[name] = tuple(map(tuple, said[name]))
        return cls(**said, weights=weights)

    def model(self, name: str) -> Any:
        """The program as a TransformerBridge of that name, which has no tokenizer.

        Raises:
            ModelError: this TransformerLens cannot make a model from weights alone.
        """
        from transformer_lens.model_bridge import TransformerBridge

        boot = getattr(TransformerBridge, "boot_native", None)
        if boot is None:
            raise ModelError(
                "this TransformerLens has no TransformerBridge.boot_native, which compiled "
                "programs need; install TransformerLens 3.9 or later"
            )
        from transformer_lens.config.transformer_bridge_config import TransformerBridgeConfig

        n_tokens, d_model = self.weights["tok_embed.weight"].shape
        layout = self.layout
        bridge = boot(
            TransformerBridgeConfig(
                n_layers=layout.n_layers,
                d_model=d_model,
                d_head=self.weights["layers.0.attn.q.weight"].shape[0],
                n_heads=1,
                n_ctx=self.weights["pos.weight"].shape[0],
                d_vocab=n_tokens,
                d_vocab_out=len(self.outputs),
                d_mlp=layout.widths[0],
                act_fn="relu",
                attention_dir="causal",
                normalization_type=None,
            )
        )
        # Not strict: the bridge lists some of its weights under a second name, too.
        unknown = bridge.load_state_dict(dict(self.weights), strict=False).unexpected_keys
        if others := [*unknown, *_not_given(bridge, self.weights)]:
            raise ModelError(
                f"this TransformerLens has other weights in a native bridge: {', '.join(others)}; "
                "install TransformerLens 3.9 or 4.3"
            )
        bridge.cfg.model_name = name
        return bridge.eval()


def _not_given(bridge: Any, weights: Mapping[str, Tensor]) -> list[str]:
    """The bridge's weights that have none of the given names, under any of their own names."""
    there = {
        name.replace("._original_component", ""): each.data_ptr()
        for name, each in bridge.original_model.state_dict().items()
    }
    given = {place for name, place in there.items() if name in weights}
    return [name for name, place in there.items() if place not in given]


def compiled_programs() -> tuple[str, ...]:
    """Name the compiled programs.

    >>> compiled_programs()
    ('compiled/chain', 'compiled/count', 'compiled/pair')
    """
    return tuple(f"{COMPILED_PREFIX}{name}" for name in _index())


def compiled_program(name: str) -> CompiledProgram:
    """Read a compiled program.

    Raises:
        InputError: there is no program of that name.
        ModelError: its file is missing or altered.
    """
    index = {f"{COMPILED_PREFIX}{each}": digest for each, digest in _index().items()}
    if name not in index:
        raise InputError(f"there is no compiled program {name!r}; there are: {', '.join(index)}")
    path = COMPILED_FOLDER / f"{name.removeprefix(COMPILED_PREFIX)}.safetensors"
    if not path.is_file() or file_sha256(path) != index[name]:
        raise ModelError(f"{path} is missing or altered; reinstall cna_lens")
    return CompiledProgram.load(path)


def compiled_truth(name: str) -> Circuit:
    """The neurons that carry an output of 1: those that write to one of the program's causes.

    >>> len(compiled_truth("compiled/pair"))
    3

    Raises:
        InputError: there is no program of that name.
        ModelError: its file is missing or altered.
    """
    program = compiled_program(name)
    neurons = program.writers(*program.causes)
    provenance = Provenance(model=name, rank="compiled")
    return Circuit(neurons, (1.0,) * len(neurons), program.layout, provenance)


def _index() -> dict[str, str]:
    return json.loads((COMPILED_FOLDER / COMPILED_INDEX).read_text(encoding="utf-8"))
