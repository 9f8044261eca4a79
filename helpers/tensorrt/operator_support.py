"""What the ONNX parser of each generation of TensorRT does with the operators of an exported graph.

The facts are in ``data/tensorrt_operators.json`` beside this file: for every operator and version how it is imported,
under which conditions, and the place in the parser's or the plugins' source where that was read. They are about the
parser of full TensorRT; :mod:`helpers.tensorrt.rtx` asks a real parser, which is another product. A row here says that
an operator is known; whether a given graph keeps its conditions is the question of :mod:`helpers.tensorrt.limits`.
"""

from __future__ import annotations

import functools
import html
import itertools
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import matplotlib.pyplot as plt
import numpy as np
import onnx
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from helpers.errors import CourseError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "COLOURS",
    "VERSIONS",
    "Row",
    "Support",
    "UnknownVersionError",
    "behaviours",
    "column",
    "gaps",
    "graph_figure",
    "kinds",
    "row",
    "sources",
    "support",
    "table_html",
]

State = Literal["built in", "limited", "plugin", "unknown"]
#: "10.16" is the release that requirements-gpu.txt pins; "10" stands for those before it, read at 10.13 and 10.10.
VERSIONS = ("8.4", "8.6", "10", "10.16", "11")
#: Background colours: white paper and black text stay readable on each.
COLOURS: dict[State, str] = {"built in": "#d9f0d3", "limited": "#fee391", "plugin": "#fc9272", "unknown": "#bdbdbd"}
_DATA = Path(__file__).resolve().parent / "data" / "tensorrt_operators.json"


class UnknownVersionError(CourseError):
    """The table has no column for this version of TensorRT."""


@dataclass(frozen=True)
class Row:
    """What one version's parser does with one operator.

    state: "built in", "limited" (known, and the note says what to mind), "plugin" (no importer: a plugin of that name
    must be registered) or "unknown" (not read). conditions: what can be judged on a graph, as the data file has it,
    each with its source. sources: where it was read, ``repository@ref:file:line`` (the name of an importer where the
    file could be read, but not by line; docs/operators.md is documentation); none for a state that follows from the
    list of importers alone.
    """

    state: State
    note: str = ""
    conditions: tuple[dict[str, Any], ...] = ()
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class Support:
    """One operator of a graph against every version.

    domain: "" for ONNX's own. nodes: how often the graph has it. states and notes: those of :class:`Row`, by version
    (notes only where there is one). sources: where each state was read, by version.
    """

    domain: str
    operator: str
    nodes: int
    states: dict[str, State]
    notes: dict[str, str]
    sources: dict[str, tuple[str, ...]] = field(default_factory=dict)


@functools.cache
def _data() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(_DATA.read_text())
    return data


def _full(source: str) -> str:
    """``parser-8.4:file:line`` with the repository and its tag or commit written out."""
    repository, _, place = source.partition(":")
    return f"{_data()['repositories'][repository]}:{place}"


def kinds() -> dict[str, Counter[str]]:
    """How many operators of each version were read where: in which parser's code, by line or by importer, or not.

    An operator counts once, with the newest parser that its row names the code of: "10.10, by line", "10.13, by
    importer", or "11.1, documentation" where no code was read.
    """
    found: dict[str, Counter[str]] = {version: Counter() for version in VERSIONS}
    ages = [name for name in _data()["repositories"] if name.startswith("parser-")]
    for rows in _data()["operators"].values():
        for version, one in rows.items():
            places = [source.split(":") for source in one["sources"] if source.startswith("parser-")]
            # The importers and what stands for them; a helper's or a checker's file would hide an importer not read.
            code = [place for place in places if "importers.cpp" in place[1].lower()]
            parser, _, at = max(code or places, key=lambda place: ages.index(place[0]))
            how = "documentation" if not code else "by line" if at.isdigit() else "by importer"
            found[version][f"{parser.removeprefix('parser-')}, {how}"] += 1
    return found


def sources() -> dict[str, str]:
    """Where the facts about each version come from, and how many operators were read where."""
    counts = {
        version: ", ".join(f"{count} at {kind}" for kind, count in sorted(found.items()))
        for version, found in kinds().items()
    }
    return {
        version: f"TensorRT {read['release']}: parser {read['parser']}; plugins and headers {read['library']}; "
        f"operators: {counts[version]}"
        for version, read in _data()["columns"].items()
    }


def behaviours() -> list[dict[str, Any]]:
    """What the versions do differently beyond single operators: each has a subject, a text by version, and sources."""
    return [{**one, "sources": [_full(source) for source in one["sources"]]} for one in _data()["behaviours"]]


def column(version: str) -> str:
    """The column for a release, such as "10" for ``"10.13.0.35"`` and "10.16" for ``"10.16.1.11"``.

    Raises:
        UnknownVersionError: no release of that kind was read.
    """
    fitting = [name for name in VERSIONS if version == name or version.startswith(f"{name}.")]
    if fitting:
        return max(fitting, key=len)
    raise UnknownVersionError(
        f"there is no table for TensorRT {version!r}", f"use one of: {', '.join(VERSIONS)}, or a release of those"
    )


def opsets(version: str) -> tuple[int, int, str]:
    """The lowest and the highest version of ONNX's operator set that a version says it supports, and where it does."""
    read = _data()["columns"][column(version)]
    low, high = read["opsets"]
    return low, high, _full(read["opsets_source"])


def seen_as(version: str) -> dict[str, str]:
    """Types of ONNX that a version takes as another one: INT64 is INT32 before TensorRT 9."""
    return dict(_data()["columns"][column(version)]["seen_as"])


def row(domain: str, operator: str, version: str) -> Row:
    """What a version does with an operator.

    The parser chooses an importer by the operator's type alone: a foreign domain does not keep ``Conv`` from being
    imported as ONNX's. A type without an importer is looked up among the registered plugins, whatever its domain.

    Raises:
        UnknownVersionError: no release of that kind was read.
    """
    version = column(version)
    found = _data()["operators"].get(operator, {}).get(version)
    if found is not None:
        foreign = domain not in ("", "ai.onnx") and found["state"] != "plugin"
        ignored = "the parser does not read the domain and imports ONNX's operator of that name" if foreign else ""
        return Row(
            found["state"],
            "; ".join(filter(None, (found.get("note", ""), ignored))),
            tuple(
                {**rule, "source": _full(rule.get("source", found["sources"][0]))}
                for rule in found.get("conditions", ())
            ),
            tuple(_full(source) for source in found["sources"]),
        )
    if operator in _data()["columns"][version]["importers"].split():
        return Row("unknown", "there is an importer; its conditions were not read")
    return Row("plugin", "no importer: looked up as a plugin of that name")


def support(model: onnx.ModelProto) -> list[Support]:
    """Every operator of the graph, those that need attention in some version first, then by falling count."""
    counts = Counter((node.domain, node.op_type) for node in model.graph.node)
    rows = []
    for (domain, operator), nodes in counts.items():
        found = {version: row(domain, operator, version) for version in VERSIONS}
        rows.append(
            Support(
                domain,
                operator,
                nodes,
                {version: one.state for version, one in found.items()},
                {version: one.note for version, one in found.items() if one.note},
                {version: one.sources for version, one in found.items()},
            )
        )
    return sorted(rows, key=lambda one: (set(one.states.values()) == {"built in"}, -one.nodes, one.operator))


def gaps(model: onnx.ModelProto, version: str) -> dict[str, int]:
    """The operators that a version takes through a plugin only, with their number of nodes.

    Raises:
        UnknownVersionError: no release of that kind was read.
    """
    version = column(version)
    return {one.operator: one.nodes for one in support(model) if one.states[version] == "plugin"}


def table_html(rows: list[Support]) -> str:
    """The rows as an HTML table, coloured by :data:`COLOURS`; a cell's text has the note, its title the sources.

    Neighbouring versions of which the same is said share a cell.
    """
    heads = "".join(f"<th>{'TensorRT ' * (version == VERSIONS[0])}{version}</th>" for version in VERSIONS)
    lines = [f"<table><tr><th>operator</th><th>nodes</th>{heads}</tr>"]
    for one in rows:
        name = f"{one.domain}::{one.operator}" if one.domain else one.operator
        lines.append(f"<tr><td>{html.escape(name)}</td><td>{one.nodes}</td>")
        said = {version: (one.states[version], one.notes.get(version, "")) for version in VERSIONS}
        for (state, note), alike in itertools.groupby(VERSIONS, said.__getitem__):
            versions = list(alike)
            text = html.escape(f"{state}: {note}" if note else state)
            sources = dict.fromkeys(source for version in versions for source in one.sources.get(version, ()))
            title = html.escape("\n".join(sources))
            style = f"background:{COLOURS[state]};color:#000;text-align:left"
            lines.append(f'<td colspan="{len(versions)}" style="{style}" title="{title}">{text}</td>')
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
