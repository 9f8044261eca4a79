"""The article's eight rules for exporting a dynamic batch, each as two tiny modules that are exported and run.

What a rule is worth today is not asserted but measured, with the tracing exporter (``dynamo=False``) of the torch that
is installed: does the export work, how many nodes does it make, do other batches than the traced one give torch's own
result.
"""

from __future__ import annotations

import tempfile
import textwrap
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import onnx
import onnxsim
import torch
import torch.nn.functional as functional
from torch import Tensor

from helpers.errors import CourseError, first_line
from helpers.export.exporter import quiet_exporter
from helpers.graph.index import GraphIndex
from helpers.graph.onnx_runtime import OnnxRunner

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["RULES", "Outcome", "Rule", "RuleError", "Variant", "holds", "outcome", "rule", "rule_figure"]

_BATCH = {0: "batch"}
_ALL = {0: "batch", 2: "height", 3: "width"}
#: The batch that is traced with; the ones that are run.
TRACED, TRIED = 3, (1, 2, 3, 5)
#: More boxes than these lie upon each other in a figure.
DRAWN = 16


class RuleError(CourseError):
    """There is no rule of that number."""


class _Call(torch.nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@dataclass(frozen=True)
class Variant:
    """code: what is exported, as a reader would write it. function: the same. axes: dynamic axes of the input."""

    code: str
    function: Callable[[Tensor], Tensor]
    axes: tuple[tuple[int, str], ...] = tuple(_BATCH.items())
    opset: int = 16

    def module(self) -> torch.nn.Module:
        return _Call(self.function)


@dataclass(frozen=True)
class Rule:
    """One rule. number: the article's. shape: example input without the batch. counted: operators to compare, none for
    all of them. tried: whether what the rule is about shows in a graph. verdict: what holds with torch 2.13, in a
    sentence that begins with the word that :func:`holds` measures."""

    number: int
    name: str
    before: Variant
    after: Variant
    shape: tuple[int, ...]
    counted: tuple[str, ...]
    tried: bool
    verdict: str

    def example(self, batch: int = TRACED) -> Tensor:
        """Random numbers, (batch, *shape) float32, the same at every call."""
        return torch.rand(batch, *self.shape, generator=torch.Generator().manual_seed(batch))


@dataclass(frozen=True)
class Outcome:
    """graph: as exported, without simplification; None if the export failed, with error saying why. simple: the same
    after onnxsim. nodes and simplified: how many nodes the two have, without Constants. counted: of the rule's
    operators, in the graph as exported. rank: most dimensions of a tensor. good_batches: those of :data:`TRIED` that
    give torch's result.
    """

    graph: onnx.ModelProto | None
    simple: onnx.ModelProto | None
    error: str
    nodes: int
    simplified: int
    counted: int
    rank: int
    good_batches: tuple[int, ...]


def _inplace(x: Tensor) -> Tensor:
    y = x.clone()
    y[..., 0:2] = y[..., 0:2] * 2 - 0.5
    return y


def _shuffle(x: Tensor) -> Tensor:
    c, h, w = (int(size) for size in x.shape[1:])
    return x.view(-1, 2, c // 2, h, w).transpose(1, 2).reshape(-1, c, h, w)


def _shuffle_flat(x: Tensor) -> Tensor:
    c, h, w = (int(size) for size in x.shape[1:])
    return x.view(-1, 2, c // 2, h * w).transpose(1, 2).reshape(-1, c, h, w)


def _corners(x: Tensor) -> Tensor:
    centre, half = x[..., :2], x[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def _flat(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], x.shape[1], x.shape[2] * x.shape[3])


RULES = (
    Rule(
        1,
        "int() around sizes other than the batch",
        Variant(
            "x.view(x.size(0), x.size(1) * x.size(2) * x.size(3))",
            lambda x: x.view(x.size(0), x.size(1) * x.size(2) * x.size(3)),
        ),
        Variant(
            "x.view(-1, int(x.size(1)) * int(x.size(2)) * int(x.size(3)))",
            lambda x: x.view(-1, int(x.size(1)) * int(x.size(2)) * int(x.size(3))),
        ),
        (4, 6, 8),
        ("Shape", "Gather", "Concat"),
        True,
        "In part: int() saves only what onnxsim saves anyway, and around the batch it freezes the batch (rule 3).",
    ),
    Rule(
        2,
        "scale_factor instead of size",
        Variant(
            "interpolate(x, size=(x.shape[2] * 2, x.shape[3] * 2))",
            lambda x: functional.interpolate(x, size=(x.shape[2] * 2, x.shape[3] * 2)),
        ),
        Variant("interpolate(x, scale_factor=2)", lambda x: functional.interpolate(x, scale_factor=2.0)),
        (4, 6, 8),
        ("Shape", "Gather", "Concat", "Slice"),
        True,
        "As economy: both are right for every batch, a size makes shape arithmetic around Resize.",
    ),
    Rule(
        3,
        "-1 for the batch, numbers elsewhere",
        Variant("x.view(int(x.size(0)), -1)", lambda x: x.view(int(x.size(0)), -1)),
        Variant("x.view(-1, 192)", lambda x: x.view(-1, 192)),
        (4, 6, 8),
        (),
        True,
        "Yes: a number for the batch is right at the traced batch only.",
    ),
    Rule(
        4,
        "only the batch is dynamic",
        Variant("dynamic batch, height and width", _flat, tuple(_ALL.items())),
        Variant("dynamic batch", _flat),
        (4, 6, 8),
        (),
        True,
        "As economy, once onnxsim has run: both are exported alike, but only sizes that are fixed can be folded.",
    ),
    Rule(
        5,
        "opset 11 or later",
        Variant("torch.round(x), opset 10", torch.round, opset=10),
        Variant("torch.round(x), opset 11", torch.round, opset=11),
        (4,),
        (),
        True,
        "Yes, as a lower bound: 11 is old by now, and GridSample needs 16.",
    ),
    Rule(
        6,
        "no writing in place",
        Variant("y[..., 0:2] = y[..., 0:2] * 2 - 0.5", _inplace),
        Variant(
            "cat([y[..., 0:2] * 2 - 0.5, y[..., 2:]])",
            lambda x: torch.cat([x[..., 0:2] * 2 - 0.5, x[..., 2:]], dim=-1),
        ),
        (5, 4),
        ("ScatterND", "Expand", "Shape", "Reshape"),
        True,
        "As economy: the write is exported right, but as ScatterND with computed indices.",
    ),
    Rule(
        7,
        "at most four dimensions",
        Variant("channel shuffle over (N, 2, C/2, H, W)", _shuffle),
        Variant("channel shuffle over (N, 2, C/2, H*W)", _shuffle_flat),
        (4, 6, 8),
        (),
        False,
        "Not tried: the exporter and ONNX Runtime do not mind, the nodes and the result are the same.",
    ),
    Rule(
        8,
        "post-processing inside the graph",
        Variant("return x  # centre and size", lambda x: x * 1.0),
        Variant("return corners(x)", _corners),
        (5, 4),
        (),
        False,
        "Not tried: it is for those who read the output, with nodes in the graph instead of code in every program.",
    ),
)


def rule(number: int) -> Rule:
    """The rule of that number. Raises :class:`RuleError` if there is none."""
    for one in RULES:
        if one.number == number:
            return one
    raise RuleError(f"there is no export rule {number}", f"use 1 to {len(RULES)}")


def outcome(of: Rule, variant: Variant) -> Outcome:
    """Export a variant at a batch of :data:`TRACED` and run it at those of :data:`TRIED`."""
    try:
        with tempfile.TemporaryDirectory() as folder, quiet_exporter(), torch.no_grad():
            file = Path(folder) / "rule.onnx"
            torch.onnx.export(
                variant.module(),
                (of.example(),),
                str(file),
                input_names=["input"],
                output_names=["output"],
                dynamic_axes={"input": dict(variant.axes), "output": dict(_BATCH)},
                opset_version=variant.opset,
                dynamo=False,
            )
            graph = onnx.load(file)
    except Exception as error:  # whatever the exporter raises is the finding
        return Outcome(None, None, f"{type(error).__name__}: {first_line(error)}", 0, 0, 0, 0, ())
    types = Counter(node.op_type for node in graph.graph.node)
    rank = max(map(len, GraphIndex(graph).shapes.values()))
    runner = OnnxRunner(graph, optimise=False)
    good = []
    for batch in TRIED:
        example = of.example(batch)
        try:
            result = runner.session.run(None, {"input": example.numpy()})[0]
        except Exception:  # ONNX Runtime's classes have no common base but this; a batch that fails is not good
            continue
        expected = variant.module()(example).numpy()
        if result.shape == expected.shape and np.allclose(result, expected, atol=1e-6):
            good.append(batch)
    nodes = sum(count for name, count in types.items() if name != "Constant")
    simple = onnxsim.simplify(graph)[0]
    simplified = sum(node.op_type != "Constant" for node in simple.graph.node)
    return Outcome(graph, simple, "", nodes, simplified, sum(types[name] for name in of.counted), rank, tuple(good))


def holds(of: Rule, before: Outcome, after: Outcome) -> str:
    """How far a rule holds: "yes" if what breaks it fails for some batch, "as economy" if following it leaves fewer
    nodes after onnxsim, "in part" if only before it; "no", or "not tried".
    """
    if not of.tried:
        return "not tried"
    if before.good_batches != TRIED:
        return "yes"
    if before.simplified > after.simplified:
        return "as economy"
    return "in part" if before.nodes > after.nodes else "no"


def rule_figure(of: Rule, before: Outcome, after: Outcome) -> Figure:
    """The two graphs side by side: one box a node, data flowing down; of constants only a Reshape's shape is told.

    Of a graph with more than :data:`DRAWN` nodes only the operators are listed, with how many there are. Two that are
    exported with as many nodes, and differ after onnxsim, are drawn as they are after it.
    """
    after_onnxsim = before.nodes == after.nodes and before.simplified != after.simplified
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
    for axis, variant, found in zip(axes, (of.before, of.after), (before, after), strict=True):
        _draw(axis, found.simple if after_onnxsim else found.graph)
        nodes = f"{found.nodes} nodes, {found.simplified} after onnxsim" if after_onnxsim else f"{found.nodes} nodes"
        what = f"{nodes}, right for batches {list(found.good_batches)}" if found.graph else found.error
        axis.set_title("\n".join([variant.code, *textwrap.wrap(what, 75)]), fontsize=9)
        axis.set_axis_off()
    figure.suptitle(f"Rule {of.number}: {of.name}")
    return figure


def _draw(axis: Axes, graph: onnx.ModelProto | None) -> None:
    if graph is None:
        axis.text(0.5, 0.5, "the export fails", ha="center", transform=axis.transAxes)
        return
    nodes = [node for node in graph.graph.node if node.op_type != "Constant"]
    if len(nodes) > DRAWN:
        types = Counter(node.op_type for node in nodes).most_common()
        text = "\n".join(f"{count} × {name}" for name, count in types)
        axis.text(0.5, 0.5, text, ha="center", va="center", fontsize=8, transform=axis.transAxes)
        return
    index = GraphIndex(graph)
    depth = {"input": 0}
    rows: Counter[int] = Counter()
    place: dict[str, tuple[float, float]] = {"input": (0, 0)}
    boxes = [("input", 0.0, 0.0)]
    for node in nodes:
        level = 1 + max((depth[name] for name in node.input if name in depth), default=0)
        x, y = float(rows[level]), -float(level)
        rows[level] += 1
        for name in node.input:
            if name in place:
                axis.annotate("", (x, y), place[name], arrowprops={"arrowstyle": "->", "color": "grey"})
        for name in node.output:
            depth[name], place[name] = level, (x, y)
        shape = index.constant(node.input[1]) if node.op_type == "Reshape" else None
        boxes.append((node.op_type if shape is None else f"Reshape to\n{shape.tolist()}", x, y))
    for text, x, y in boxes:
        axis.text(x, y, text, ha="center", va="center", fontsize=8, bbox={"boxstyle": "round", "facecolor": "white"})
    axis.set(xlim=(-1, max([1, *rows.values()])), ylim=(-max([1, *rows]) - 0.5, 0.5))
