"""Which operators of an exported graph each generation of TensorRT takes, from the parser's own published tables.

The facts are in ``helpers/data/tensorrt_operators.json``, with their sources. They are about the ONNX parser of full
TensorRT; :mod:`helpers.tensorrt.rtx` asks a real parser, which is another product. A table says that an operator is
known, not that every use of it is: types, ranks and attributes can still be refused.
"""

from __future__ import annotations

import functools
import html
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import matplotlib.pyplot as plt
import numpy as np
import onnx
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from helpers.errors import CourseError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "VERSIONS", "Support", "UnknownVersionError", "gaps", "graph_figure", "support", "table_html"]

State = Literal["built in", "limited", "plugin", "unknown"]
VERSIONS = ("8.4", "8.6", "10", "11")
#: Background colours: white paper and black text stay readable on each.
COLOURS: dict[State, str] = {"built in": "#d9f0d3", "limited": "#fee391", "plugin": "#fc9272", "unknown": "#bdbdbd"}
_DATA = Path(__file__).resolve().parent / "data" / "tensorrt_operators.json"


class UnknownVersionError(CourseError):
    """The table has no column for this version of TensorRT."""


@dataclass(frozen=True)
class Support:
    """One operator of a graph against every version.

    domain: "" for ONNX's own. nodes: how often the graph has it. states: one of "built in", "limited" (known, and the
    note says what to mind), "plugin" (no importer: a plugin must be registered) and "unknown" (our data has no row),
    by version. notes: what to mind, by version, where there is anything.
    """

    domain: str
    operator: str
    nodes: int
    states: dict[str, State]
    notes: dict[str, str]


@functools.cache
def _data() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(_DATA.read_text())
    return data


def sources() -> dict[str, str]:
    """Where the facts about each version come from."""
    return dict(_data()["sources"])


def _state(domain: str, operator: str, version: str) -> tuple[State, str]:
    data = _data()
    # TensorRT's parser looks plugins up by the operator's name; it has no importer for a foreign domain.
    if domain not in ("", "ai.onnx"):
        return "plugin", data["foreign_domain"]
    special = data["special"].get(operator, {}).get(version)
    if special:
        state, note = special
        assert state in get_args(State)
        return state, note
    return ("built in", "") if operator in data["built_in_everywhere"] else ("unknown", "")


def support(model: onnx.ModelProto) -> list[Support]:
    """Every operator of the graph, those that need attention in some version first, then by falling count."""
    counts = Counter((node.domain, node.op_type) for node in model.graph.node)
    rows = []
    for (domain, operator), nodes in counts.items():
        found = {version: _state(domain, operator, version) for version in VERSIONS}
        states = {version: state for version, (state, _) in found.items()}
        rows.append(Support(domain, operator, nodes, states, {v: note for v, (_, note) in found.items() if note}))
    return sorted(rows, key=lambda row: (set(row.states.values()) == {"built in"}, -row.nodes, row.operator))


def gaps(model: onnx.ModelProto, version: str) -> dict[str, int]:
    """The operators that a version takes through a plugin only, with their number of nodes.

    Raises:
        UnknownVersionError: ``version`` is not one of :data:`VERSIONS`.
    """
    if version not in VERSIONS:
        raise UnknownVersionError(f"there is no table for TensorRT {version!r}", f"use one of: {', '.join(VERSIONS)}")
    return {row.operator: row.nodes for row in support(model) if row.states[version] == "plugin"}


def table_html(rows: list[Support]) -> str:
    """The rows as an HTML table, coloured by :data:`COLOURS`; a cell's note is in its text."""
    lines = ["<table><tr><th>operator</th><th>nodes</th>", *(f"<th>TensorRT {v}</th>" for v in VERSIONS), "</tr>"]
    for row in rows:
        name = f"{row.domain}::{row.operator}" if row.domain else row.operator
        lines.append(f"<tr><td>{html.escape(name)}</td><td>{row.nodes}</td>")
        for version in VERSIONS:
            state, note = row.states[version], row.notes.get(version, "")
            text = html.escape(f"{state}: {note}" if note else state)
            lines.append(f'<td style="background:{COLOURS[state]};color:#000;text-align:left">{text}</td>')
        lines.append("</tr>")
    return "".join((*lines, "</table>"))


def graph_figure(model: onnx.ModelProto, title: str) -> Figure:
    """The graph as one strip a version, a cell for each node in execution order, coloured by its support."""
    states = list(COLOURS)
    rows = {(row.domain, row.operator): row for row in support(model)}
    nodes = [rows[node.domain, node.op_type] for node in model.graph.node]
    cells = np.array([[states.index(node.states[version]) for node in nodes] for version in VERSIONS])
    # A single node of 700 would be a third of a pixel: each rare one is widened to stay visible.
    wide = max(1, len(nodes) // 250)
    for line in cells:
        for index in np.flatnonzero(line != 0):
            line[index : index + wide] = np.maximum(line[index : index + wide], line[index])
    figure, axis = plt.subplots(figsize=(12, 2.6), layout="constrained")
    colours = ListedColormap([COLOURS[state] for state in states])
    axis.imshow(cells, aspect="auto", interpolation="nearest", cmap=colours, vmin=0, vmax=len(states) - 1)
    axis.set_yticks(range(len(VERSIONS)), [f"TensorRT {version}" for version in VERSIONS])
    axis.set_xlabel("node, in the order of execution")
    axis.set_title(title)
    legend = [
        Patch(color=COLOURS[state], label=state)
        for state in states
        if state in {s for n in nodes for s in n.states.values()}
    ]
    axis.legend(handles=legend, loc="upper left", bbox_to_anchor=(1, 1))
    return figure
