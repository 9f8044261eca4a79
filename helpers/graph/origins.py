"""Where each node of a graph comes from: the module and the lines of Python that made it, kept in its
``doc_string``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import onnx

__all__ = ["Origin", "library_line", "origin", "write_origins"]


@dataclass(frozen=True)
class Origin:
    """Where a node comes from.

    scope: the module that was being called, as in ``"roi_head.bbox_head.relu"``; empty where mmdet calls methods of a
    module other than ``forward``, which torch's tracer does not see.
    lines: mmdet's and mmcv's lines on the Python stack, innermost first, as
    ``"mmdet/core/export/onnx_helper.py:174 add_dummy_nms_for_onnx"``.
    """

    scope: str
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return " < ".join((self.scope or "(no module)", *self.lines))


_FRAME = re.compile(r"^(?P<file>.+)\((?P<line>\d+)\): (?P<name>.+)$")
# Whose lines answer the question "who made this node": the detector's libraries, and patched functions ("<pNN...").
_KEPT = ("mmdet/", "mmcv/", "<p")
_PASSED_OVER = "mmcv/runner/fp16_utils.py"


def write_origins(model: onnx.ModelProto, module_names: Sequence[str]) -> None:
    """Replace torch's stacks of absolute paths by short lines that mean the same on every machine."""
    lines_of: dict[str, tuple[str, ...]] = {}
    for node in model.graph.node:
        frames = filter(None, map(_FRAME.match, node.doc_string.splitlines()))
        lines = [line for f in frames if (line := library_line(f["file"], int(f["line"]), f["name"]))]
        # The exporter adds small nodes (a constant, a cast) without a stack: they belong to what they prepare.
        if not lines:
            lines = list(next((lines_of[name] for name in node.input if lines_of.get(name)), ()))
        for name in node.output:
            lines_of[name] = tuple(lines)
        scope = _module_path(node.name, module_names)
        node.doc_string = "\n".join((scope, *lines))


def library_line(file: str, line: int, function: str) -> str:
    """``"mmdet/.../rpn_head.py:264 onnx_export"`` for a line of mmdet, mmcv or a patch; empty for any other."""
    for marker in ("site-packages/", "dist-packages/"):
        file = file.rpartition(marker)[2]
    return f"{file}:{line} {function}" if file.startswith(_KEPT) and file != _PASSED_OVER else ""


def _module_path(node_name: str, module_names: Sequence[str]) -> str:
    """``/backbone/layer1/layer1.0/conv1/Conv`` to ``backbone.layer1.0.conv1``, the module's path in the detector.

    torch names the modules that were called only; for a child of a module whose other methods were called (mmdet's
    ``roi_head.onnx_export``), the path is completed if exactly one module ends with it.
    """
    parts = node_name.strip("/").split("/")[:-1]
    path: list[str] = []
    for part in parts:
        # Children of a ModuleList and of a Sequential are named with their parent's name: layer1, then layer1.0.
        steps = part.split(".")
        if path and steps[0] == path[-1]:
            steps = steps[1:]
        path += steps
    scope = ".".join(path)
    # The second call of a module is named relu_1; a module may be named so itself.
    for wanted in (scope, re.sub(r"_\d+(?=\.|$)", "", scope)):
        if wanted in module_names or not wanted:
            return wanted
        ending = [name for name in module_names if name.endswith(f".{wanted}")]
        if len(ending) == 1:
            return ending[0]
    return scope


def origin(node: onnx.NodeProto) -> Origin:
    """What :func:`export_onnx` wrote about a node's origin; empty for a file that something else made."""
    scope, *lines = node.doc_string.split("\n")
    return Origin(scope, tuple(lines))
