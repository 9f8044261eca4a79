"""docs/CONTRACT.md names a test for each promise: each of them is there, and slow where it says so."""

from __future__ import annotations

import ast
import re

from helpers import paths

CONTRACT = (paths.REPO_ROOT / "docs" / "CONTRACT.md").read_text()


def test_each_test_that_holds_a_promise_is_there():
    rows = [line for line in CONTRACT.splitlines() if line.startswith("| ") and not line.startswith("| promise")]
    assert len([row for row in rows if "---" not in row]) > 15
    for row in rows:
        places = [paths.REPO_ROOT / name for name in re.findall(r"`(tests/[^`]+)`", row)]
        files = [file for place in places for file in ([place] if place.suffix else place.glob("*.py"))]
        assert files or "chapter" in row or "nothing is promised" in row or "---" in row, row
        bodies = [node for file in files for node in ast.parse(file.read_text()).body]
        functions = {node.name: node for node in bodies if isinstance(node, ast.FunctionDef)}
        for name in re.findall(r"`(test_(?!cfg)\w+)`", row):
            marks = [ast.unparse(mark) for mark in functions[name].decorator_list]
            assert "*slow*" in row or "pytest.mark.slow" not in marks, name
