"""The house: imports go one way, and an ONNX file can be worked on where there is no mmdet."""

from __future__ import annotations

import ast
import re
import subprocess
import sys

import pytest

from helpers import paths

GROUND = {"errors", "paths", "artifacts", "compat", "exercises"}
# Each floor may use those before it, and the ground floor. Within `detector`, what holds data comes before what needs
# mmdet; `graph` uses the former alone, which the child process below shows.
FLOORS = ["operators", "detector", "scenes", "graph", "export", "compare", "half_precision", "tensorrt", "deploy"]
# `half_precision` needs no model, and `scenes` is for making data: nothing of the rest reads them.
FORBIDDEN = {("half_precision", "export"), ("graph", "scenes"), ("compare", "scenes"), ("export", "scenes")}
# These stand beside the floors and look at all of them.
BESIDE = {"cli", "environment", "evidence", "extraction", "run_report", "site"}
HELPERS = paths.REPO_ROOT / "helpers"


def imports(path):
    """The modules of the house that a file imports, anywhere in it, as ("graph", "file") or ("errors",)."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (tuple(name.split(".")[1:]) for name in names if name.split(".")[0] == "helpers")


def test_every_folder_is_on_a_floor_and_says_what_lives_there():
    folders = {path.name for path in HELPERS.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders <= set(FLOORS)
    assert {path.stem for path in HELPERS.glob("*.py")} == GROUND | BESIDE | {"__init__"}
    for folder in folders:
        text = ast.get_docstring(ast.parse((HELPERS / folder / "__init__.py").read_text())) or ""
        assert "Not here: " in text or "Not\nhere: " in text, f"{folder}/__init__.py does not say what is elsewhere"
        said = set(re.findall("``([a-z_]+)``", text.rpartition("Uses ")[2]))
        used = {target[0] for path in (HELPERS / folder).glob("*.py") for target in imports(path)}
        assert said == used & folders - {folder}, f"what {folder}/__init__.py says that it uses is not what it imports"


@pytest.mark.parametrize("path", sorted(HELPERS.rglob("*.py")), ids=lambda p: str(p.relative_to(HELPERS)))
def test_imports_go_one_way(path):
    room = path.relative_to(HELPERS).parts[0].removesuffix(".py")
    for target in imports(path):
        used = target[0]
        if room in BESIDE or used in GROUND or used == room:
            continue
        assert room not in GROUND, f"the ground floor imports {used}"
        assert used not in BESIDE, f"{room} imports {used}"
        assert FLOORS.index(used) < FLOORS.index(room), f"{room} imports {used}, which lies above it"
        assert (room, used) not in FORBIDDEN, f"{room} imports {used}"


def test_patches_use_the_ground_floor_only():
    for path in (paths.REPO_ROOT / "patches").glob("*.py"):
        assert {target[0] for target in imports(path)} <= GROUND


WITHOUT = """
import sys
for name in ("mmdet", "mmcv", "torchvision"):
    sys.modules[name] = None  # importing it raises ImportError
import importlib, pkgutil
import helpers.graph, helpers.half_precision, helpers.operators
for package in (helpers.graph, helpers.half_precision, helpers.operators):
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
"""


def test_graphs_and_half_precision_work_without_mmdet():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], cwd=paths.REPO_ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
