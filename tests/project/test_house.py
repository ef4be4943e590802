"""The package is as CONTRIBUTING draws it: its rooms, the order of imports, what is public."""

import ast
import importlib
import json
import re
import subprocess
import sys
import tomllib
import zipfile

import pytest
from pages import ROOT

import cna_lens

PACKAGE = ROOT / "cna_lens"
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
TREE = re.search(r"```text\n(cna_lens/\n.*?)```", CONTRIBUTING, re.DOTALL)[1]
LINE = re.search(r"```text\n(cli → .*?)\n```", CONTRIBUTING, re.DOTALL)[1]
ROOMS = [room for layer in LINE.split(" → ") for room in layer.split(" | ")]
WITH_A_FACE = [room for room in ROOMS if (PACKAGE / room / "__init__.pyi").exists()]


def drawn():
    """The modules and the folders in the tree of CONTRIBUTING."""
    modules, folders, inside = set(), set(), []
    for line in TREE.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        inside = inside[:depth]
        if folder := re.match(r" *(\w+)/", line):
            inside.append(folder[1])
            folders.add("/".join(inside))
        else:
            modules |= {"/".join([*inside, name]) for name in line.split()}
    return modules, folders


def test_the_tree_is_the_folders():
    modules, folders = drawn()
    files = {path.relative_to(ROOT).with_suffix("") for path in PACKAGE.rglob("*.py")}
    assert modules == {str(path) for path in files if path.name != "__init__"}
    assert folders == {str(path.parent) for path in files if path.name == "__init__"}


def test_the_contract_of_imports_is_the_line():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    line, circles = settings["tool"]["importlinter"]["contracts"]
    assert line["exhaustive"]
    assert line["layers"] == LINE.split(" → ")
    assert len(line["layers"]) <= 11
    assert circles["type"] == "acyclic_siblings"


@pytest.mark.parametrize("room", WITH_A_FACE)
def test_a_room_gives_what_its_stub_says(room):
    module = importlib.import_module(f"cna_lens.{room}")
    stub = ast.parse((PACKAGE / room / "__init__.pyi").read_text(encoding="utf-8"))
    imported = [
        alias.name for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names
    ]
    (said,) = (node.value for node in stub.body if isinstance(node, ast.Assign))
    assert sorted(module.__all__) == sorted(imported) == sorted(ast.literal_eval(said))
    assert all(hasattr(module, name) for name in module.__all__)


@pytest.mark.parametrize("room", WITH_A_FACE)
def test_no_module_bears_the_name_of_what_its_room_gives(room):
    inside = {path.stem for path in (PACKAGE / room).iterdir()} - {"__init__"}
    assert inside & set(importlib.import_module(f"cna_lens.{room}").__all__) == set()


def test_what_is_public_at_the_top_is_public_in_a_room():
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))
    sources = {node.module for node in stub.body if isinstance(node, ast.ImportFrom)} - {None}
    assert sources <= set(ROOMS)
    for name in cna_lens.__all__:
        if (PACKAGE / name).is_dir():
            continue
        rooms = [importlib.import_module(f"cna_lens.{source}") for source in sources]
        assert any(getattr(room, name, None) is getattr(cna_lens, name) for room in rooms), name


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("folder", ["experiments", "examples"])
def test_experiments_and_examples_import_what_is_public(folder):
    allowed = {"cna_lens", *(f"cna_lens.{room}" for room in ROOMS)}
    found = {
        f"{path.relative_to(ROOT)}: {module}"
        for path in (ROOT / folder).rglob("*.py")
        for module in imports(path)
        if module.split(".")[0] == "cna_lens" and module not in allowed
    }
    assert found == set()


def test_the_package_never_imports_the_experiments():
    found = {path for path in PACKAGE.rglob("*.py") if "experiments" in map(root_of, imports(path))}
    assert found == set()


def root_of(module):
    return module.split(".")[0]


@pytest.mark.long
def test_whoever_installs_the_wheel_has_its_types(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", tmp_path, ROOT], check=True, stdin=subprocess.DEVNULL)
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as file:
        file.extractall(installed)
    assert (installed / "cna_lens" / "py.typed").is_file()
    script = tmp_path / "script.py"
    script.write_text(
        "import cna_lens\n"
        "from cna_lens.metrics import evaluate\n"
        "reveal_type(cna_lens.Circuit.load('circuit.json'))\n"
        "reveal_type(cna_lens.find_circuit)\n"
        "reveal_type(evaluate)\n"
        "cna_lens.circuit_size('many')\n"
    )
    settings = {"extraPaths": [str(installed)], "include": [script.name]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    pyright = [sys.executable, "-m", "pyright", "--project", tmp_path, "--outputjson"]
    pyright += ["--pythonpath", sys.executable]
    found = subprocess.run(pyright, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    messages = [each["message"] for each in json.loads(found.stdout)["generalDiagnostics"]]
    load, find, evaluate, wrong = messages
    assert load == 'Type of "cna_lens.Circuit.load(\'circuit.json\')" is "Circuit"'
    assert "model: HookedModel, positive: Sequence[str | " in find
    assert find.endswith('-> Circuit"')
    assert "HookedModel" in evaluate
    assert evaluate.endswith('-> Evaluation"')
    assert '"Literal[\'many\']" is not assignable to "int"' in wrong
