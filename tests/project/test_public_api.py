"""Public names load and are documented, and the examples of the docstrings run."""

import ast
import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import tiny
import torch

import cna_lens

# Inspect, whose classes they extend, has an environment of its own.
NEED_INSPECT = {f"cna_lens.cli.inspect.{name}" for name in ("provider", "registry")}
MODULES = [
    importlib.import_module(found.name)
    for found in pkgutil.walk_packages(cna_lens.__path__, "cna_lens.")
    if find_spec("inspect_ai") or found.name not in NEED_INSPECT
] + [cna_lens]
PUBLIC = [getattr(cna_lens, name) for name in cna_lens.__all__]
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def documented():
    """Every module, function and class of the package with its name."""
    for module in MODULES:
        yield module.__name__, module
        for name, value in vars(module).items():
            # The name of the module decides: type checks wrap functions in ones made elsewhere.
            if getattr(value, "__module__", None) == module.__name__ and callable(value):
                yield f"{module.__name__}.{name}", value


def doctests():
    finder = doctest.DocTestFinder(exclude_empty=True)
    for name, value in documented():
        if inspect.ismodule(value):
            parser = doctest.DocTestParser()
            found = [parser.get_doctest(value.__doc__ or "", {}, name, value.__file__, 0)]
        else:
            found = finder.find(value, name, module=False, globs={})
        yield from (test for test in found if test.examples)


DOCTESTS = list(doctests())


@pytest.fixture(scope="module")
def names(llama):
    public = {name: getattr(cna_lens, name) for name in cna_lens.__all__}
    return public | {
        "tiny_model": llama,
        "tiny_sae": tiny.autoencoder(),
        "tiny_layout": cna_lens.Layout((tiny.WIDTH, tiny.WIDTH)),
        "torch": torch,
    }


@pytest.mark.parametrize("example", DOCTESTS, ids=lambda test: test.name)
def test_the_examples_of_the_docstrings_run(example, names):
    # Examples of private functions also use the names of their module.
    owners = (module for module in MODULES if f"{example.name}.".startswith(f"{module.__name__}."))
    module = max(owners, key=lambda module: len(module.__name__))
    example.globs = vars(module) | names
    report = []
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    runner.run(example, out=report.append)
    assert runner.failures == 0, "".join(report)
    assert runner.tries == len(example.examples)


def test_no_example_is_left_out():
    written = sum(inspect.getsource(module).count("    >>> ") for module in MODULES)
    found = sum(len(test.examples) for test in DOCTESTS)
    assert found == written > 20


def test_dunder_all_lists_exactly_the_public_names():
    stub = ast.parse(Path(cna_lens.__file__).with_suffix(".pyi").read_text())
    imported = [
        alias.name for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names
    ]
    (said,) = (node.value for node in stub.body if isinstance(node, ast.Assign))
    assert len(imported) == len(set(imported))
    assert sorted(cna_lens.__all__) == sorted(imported) == sorted(ast.literal_eval(said))
    assert dir(cna_lens) == sorted(cna_lens.__all__)


def test_a_name_that_is_not_public_is_no_attribute():
    with pytest.raises(AttributeError, match="no_such_name"):
        cna_lens.no_such_name  # noqa: B018


def test_importing_the_package_loads_no_library_of_models():
    code = "import sys, cna_lens; print({'torch', 'transformers'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"


@pytest.mark.parametrize(
    "value",
    [v for v in PUBLIC if inspect.isroutine(v) or inspect.isclass(v)],
    ids=lambda value: value.__name__,
)
def test_public_functions_and_classes_explain_themselves(value):
    documentation = value.__doc__ or ""
    # Python gives a dataclass without a docstring its signature as docstring.
    assert documentation
    assert not documentation.startswith(f"{value.__name__}(")
    assert documentation.split("\n")[0].rstrip().endswith((".", ":"))


def members():
    for value in PUBLIC:
        if inspect.isclass(value):
            for name, member in vars(value).items():
                if not name.startswith("_") and (
                    inspect.isroutine(member) or isinstance(member, property)
                ):
                    yield pytest.param(member, id=f"{value.__name__}.{name}")


@pytest.mark.parametrize("member", list(members()))
def test_public_methods_explain_themselves(member):
    assert inspect.getdoc(member)


@pytest.mark.parametrize("name", list(cna_lens.RANKINGS))
def test_every_ranking_names_its_source_and_cost(name):
    documentation = cna_lens.RANKINGS[name].__doc__
    assert "Source:" in documentation
    assert "Cost:" in documentation
