"""The entry point by which Inspect knows the models named `cna/...`."""
# Inspect comes with the extra `inspect`, and its own environment.
# pyright: reportMissingImports=false, reportUntypedFunctionDecorator=false

from inspect_ai.model import ModelAPI, modelapi


@modelapi(name="cna")
def cna() -> type[ModelAPI]:
    """A model of `cna_lens.load_model`, steered by a circuit."""
    from cna_lens.cli.inspect.provider import SteeredModel

    return SteeredModel
