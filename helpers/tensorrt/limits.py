"""Whether a graph keeps the conditions of a version's parser, judged before anything is built.

:mod:`helpers.tensorrt.operator_support` knows the conditions, read in the parser's source; here they are held against
the nodes of a given graph. What a parser refuses, an hour of building would have found too. What it takes and then
computes differently, nothing else finds: NonMaxSuppression looks at the 5000 best boxes of a picture and says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, shape_inference

from helpers.errors import CourseError
from helpers.graph.index import GraphIndex
from helpers.tensorrt import operator_support

__all__ = ["EFFECTS", "Finding", "GraphLimitError", "check", "limits"]

Effect = Literal["refused", "silent", "note"]
#: What a finding means, worst first.
EFFECTS: dict[Effect, str] = {
    "refused": "the parser or the builder stops",
    "silent": "the engine is built and can compute something else",
    "note": "cannot be decided from the graph, or does no harm in ordinary use",
}


class GraphLimitError(CourseError):
    """A graph is beyond a limit of a version of TensorRT; the message names the first node and the way out."""


@dataclass(frozen=True)
class Finding:
    """One condition that one node does not keep, or may not keep.

    node: its name, or its first output's where it has none; "" for the whole graph. limit: the condition in words;
    value: what the graph has. source: where the condition was read, as ``repository@ref:file:line``.
    """

    node: str
    operator: str
    effect: Effect
    limit: str
    value: str
    way_out: str
    source: str

    def __str__(self) -> str:
        place = f"{self.operator} {self.node}" if self.node else "the graph"
        return f"{place}: {self.limit}, it has {self.value} ({self.effect}): {self.way_out}"


class _Graph(GraphIndex):
    """The index of a graph with inferred sizes, and its types as a version of TensorRT sees them."""

    def __init__(self, model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]], seen_as: Mapping[str, str]) -> None:
        super().__init__(shape_inference.infer_shapes(_with_input_shapes(model, shapes), data_prop=True))
        graph = self.model.graph
        values = {one.name: one.type.tensor_type.elem_type for one in (*graph.input, *graph.value_info, *graph.output)}
        values |= {name: tensor.data_type for name, tensor in self.initializers.items()}
        kinds = {name: TensorProto.DataType.Name(kind) for name, kind in values.items() if kind}
        self.kinds = {name: seen_as.get(kind, kind) for name, kind in kinds.items()}
        self.sizes = self.shapes()

    def is_weight(self, name: str) -> bool:
        """Whether a parser has the value: an initializer or a Constant. What a Cast makes of one is a tensor to it."""
        node = self.producer.get(name)
        return name in self.initializers or (node is not None and node.op_type == "Constant")

    def shape(self, name: str) -> tuple[int | None, ...] | None:
        """None for an unknown rank, and for each size that is not known."""
        sizes = self.sizes.get(name)
        return None if sizes is None else tuple(size if isinstance(size, int) and size else None for size in sizes)

    def value(self, node: onnx.NodeProto, index: int) -> float | None:
        """A constant input as a number; None where it is no constant, or not there."""
        name = node.input[index] if index < len(node.input) else ""
        return self.scalar(name) if self.is_weight(name) else None

    def masked_below(self, node: onnx.NodeProto) -> float | None:
        """The constant, below its threshold, that a ``Where`` writes into the scores of a NonMaxSuppression."""
        mask = self.made_by(node.input[1], "Where")
        low = [self.value(mask, index) for index in (1, 2)] if mask is not None else []
        threshold = self.value(node, 4) or 0.0
        return min((value for value in low if value is not None and value < threshold), default=None)


def _with_input_shapes(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> onnx.ModelProto:
    if not shapes:
        return model
    known = onnx.ModelProto()
    known.CopyFrom(model)
    for value in known.graph.input:
        if value.name in shapes:
            kind = value.type.tensor_type.elem_type
            value.CopyFrom(helper.make_tensor_value_info(value.name, kind, list(shapes[value.name])))
    return known


def _given(node: onnx.NodeProto, indices: Sequence[int] | None) -> list[tuple[int, str]]:
    """(index, name) of the inputs that are there; of all of them without ``indices``."""
    wanted = range(len(node.input)) if indices is None else indices
    return [(index, node.input[index]) for index in wanted if index < len(node.input) and node.input[index]]


# --- one function a rule of the data file: (limit, value, way out, effect or None for the condition's own) ------------

Judged = Iterator[tuple[str, str, str, Effect | None]]


def _types(graph: _Graph, node: onnx.NodeProto, rule: dict[str, Any]) -> Judged:
    watched = rule.get("when_not_constant")
    if watched is not None and all(graph.is_weight(name) for _, name in _given(node, watched)):
        return
    taken, refused = rule.get("taken"), rule.get("refused", ())
    found = [(index, graph.kinds.get(name, "")) for index, name in _given(node, rule.get("inputs"))]
    bad = [(i, kind) for i, kind in found if kind and (kind in refused or (taken is not None and kind not in taken))]
    if bad and not (rule.get("together") and len(bad) < len(found)):
        index, kind = bad[0]
        wanted = f"of type {' or '.join(taken)}" if taken else f"not of type {' or '.join(refused)}"
        yield f"input {index} {wanted}", kind, "cast that input to another type in the graph", None


def _constant(graph: _Graph, node: onnx.NodeProto, rule: dict[str, Any]) -> Judged:
    for index, name in _given(node, rule["inputs"]):
        if not graph.is_weight(name):
            way_out = "export it as a constant (the dynamic patches do, and folding constants helps)"
            yield f"input {index} must be an initializer", f"the tensor {name}", way_out, None


def _at_most(graph: _Graph, node: onnx.NodeProto, rule: dict[str, Any]) -> Judged:
    what, most = rule["what"], rule["most"]
    value = graph.value(node, rule["input"])
    if value is None:
        yield (
            f"{what} at most {most}",
            f"a computed {what}",
            "export with a constant one to know before the run",
            "note",
        )
    elif value > most:
        way_out = "export with a smaller nms_pre, which is the K of the RPN's TopK"
        yield f"{what} at most {most}", f"{value:.0f}", way_out, None


def _boxes(graph: _Graph, node: onnx.NodeProto, rule: dict[str, Any]) -> Judged:
    limit = f"the {rule['most']} best boxes of each picture are looked at"
    way_out = (
        f"export with a smaller nms_pre (times the pyramid's levels at most {rule['most']}; scripts/measure_nms_pre.py "
        "measures its AP), or suppress each level in a NonMaxSuppression of its own"
    )
    shape = graph.shape(node.input[1])
    sizes = shape[1:] if shape is not None and len(shape) == 3 else (None, None)
    if None in sizes:
        yield limit, "an unknown number", "give the shapes of the graph's inputs", "note"
        return
    classes, boxes = (int(size) for size in sizes if size is not None)
    threshold, masked = graph.value(node, 4) or 0.0, graph.masked_below(node)
    # Scores that the threshold drops come last in the order of scores: they take no place from the others.
    if threshold <= 0 and (boxes if masked is not None else classes * boxes) > rule["most"]:
        yield limit, str(boxes if masked is not None else classes * boxes), way_out, None
    elif classes * boxes > rule["most"]:
        dropped = f"those below {threshold:g}" if threshold > 0 else f"those set to {masked:g}"
        way_out = f"nothing, unless more than {rule['most']} of a picture are left"
        yield limit, f"{classes * boxes}, of which {dropped} do not count", way_out, "note"


def _one_class(graph: _Graph, node: onnx.NodeProto, rule: dict[str, Any]) -> Judged:
    shape = graph.shape(node.input[1])
    if shape is not None and len(shape) == 3 and (shape[1] or 1) > 1:
        way_out = "nothing, if the graph takes no more than that many afterwards; else one NonMaxSuppression a class"
        yield "the count is that of all classes together", f"{shape[1]} classes", way_out, None


def _low_threshold(graph: _Graph, node: onnx.NodeProto, rule: dict[str, Any]) -> Judged:
    threshold, masked = graph.value(node, rule["input"]) or 0.0, graph.masked_below(node)
    limit = f"a score threshold below {rule['below']:g} keeps no lower score out"
    if 0 < threshold < rule["below"]:
        yield limit, f"{threshold:g}", f"use a threshold of at least {rule['below']:g}", None
    elif threshold <= 0 and masked is not None:
        # What the graph does with a box that is selected by such a score cannot be told here; p31 drops it.
        way_out = "nothing, if the graph takes a box's mark from the row of its own class only, as patch p31 does"
        yield limit, f"{threshold:g} and scores set to {masked:g}", way_out, "note"


def _pictures(graph: _Graph, node: onnx.NodeProto, rule: dict[str, Any]) -> Judged:
    shape = graph.shape(node.input[0])
    if shape and shape[0] is not None and shape[0] > rule["most"]:
        limit = f"a batch of at most {rule['most']} in NonMaxSuppression"
        yield (
            limit,
            str(shape[0]),
            "use a smaller batch (where each class is a picture to it, it is batch x classes)",
            None,
        )


def _attribute(graph: _Graph, node: onnx.NodeProto, rule: dict[str, Any]) -> Judged:
    values = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    value = values.get(rule["name"], rule.get("default"))
    value = value.decode() if isinstance(value, bytes) else list(value) if isinstance(value, (list, tuple)) else value
    if value is not None and value not in rule["allowed"]:
        words = " or ".join(str(one) for one in rule["allowed"])
        yield f"the attribute {rule['name']} must be {words}", str(value), "export with one of these", None


def _written(graph: _Graph, node: onnx.NodeProto, rule: dict[str, Any]) -> Judged:
    if graph.opset() >= rule["from_opset"] and rule["name"] not in {one.name for one in node.attribute}:
        limit = f"the attribute {rule['name']} must be written from opset {rule['from_opset']} on, default or not"
        yield limit, "none", f"set {rule['name']} to its default in the node", None


def _shape(graph: _Graph, node: onnx.NodeProto, rule: dict[str, Any]) -> Judged:
    shape = graph.shape(node.input[rule["input"]])
    last = rule.get("last")
    if shape is None:
        return
    if len(shape) != rule["rank"] or (last is not None and shape[-1] not in (None, last)):
        limit = f"input {rule['input']} must have {rule['rank']} axes" + (f", the last of size {last}" if last else "")
        yield limit, str(shape), "reshape it in the graph", None


def _linear_scales(graph: _Graph, node: onnx.NodeProto, rule: dict[str, Any]) -> Judged:
    mode = next((one.s.decode() for one in node.attribute if one.name == "mode"), "nearest")
    scales = graph.constant(node.input[2]) if len(node.input) > 2 else None
    if mode == "linear" and scales is not None and np.any(scales[: -rule["most"]] != 1):
        limit = f"linear resizing of the last {rule['most']} axes only"
        yield limit, f"scales {scales.tolist()}", "resize fewer axes at once", None


RULES: dict[str, Callable[[_Graph, onnx.NodeProto, dict[str, Any]], Judged]] = {
    "types": _types,
    "constant": _constant,
    "at_most": _at_most,
    "boxes": _boxes,
    "one_class": _one_class,
    "low_threshold": _low_threshold,
    "pictures": _pictures,
    "attribute": _attribute,
    "written": _written,
    "shape": _shape,
    "linear_scales": _linear_scales,
}


def limits(model: onnx.ModelProto, version: str, shapes: Mapping[str, Sequence[int]] | None = None) -> list[Finding]:
    """Every condition of a version's parser that the graph breaks or may break, worst first.

    model: any ONNX graph; sizes come from ONNX's shape inference and from the shapes that the file declares. shapes:
    the sizes of inputs with dynamic axes (by input name), where they matter: a dynamic batch alone needs none, limits
    are per picture. version: a column of :data:`helpers.tensorrt.operator_support.VERSIONS` or a release such as
    "10.13.0.35". An empty list does not promise that a build succeeds: it says that no known limit is broken.

    Raises:
        UnknownVersionError: no release of that kind was read.
    """
    version = operator_support.column(version)
    graph = _Graph(model, shapes or {}, operator_support.seen_as(version))
    found: list[Finding] = []
    low, high, source = operator_support.opsets(version)
    if not low <= graph.opset() <= high:
        way_out = f"export with an opset from {low} to {high}"
        limit = f"TensorRT {version} is documented for opsets {low} to {high}"
        found.append(Finding("", "", "note", limit, str(graph.opset()), way_out, source))
    for node in graph.nodes:
        row = operator_support.row(node.domain, node.op_type, version)
        name = node.name or node.output[0]
        if row.state == "unknown":
            way_out = "parse the graph with that version to know"
            found.append(Finding(name, node.op_type, "note", "conditions were not read", "a node of it", way_out, ""))
        for rule in row.conditions:
            for limit, value, way_out, effect in RULES[rule["rule"]](graph, node, rule):
                limit = f"{limit} ({rule['says']})" if "says" in rule else limit
                worst: Effect = effect or rule.get("effect", "refused")
                found.append(Finding(name, node.op_type, worst, limit, value, way_out, rule["source"]))
    return sorted(found, key=lambda one: list(EFFECTS).index(one.effect))


def check(model: onnx.ModelProto, version: str, shapes: Mapping[str, Sequence[int]] | None = None) -> list[Finding]:
    """The notes of :func:`limits`, if there is nothing worse.

    Raises:
        GraphLimitError: the parser would refuse a node, or the engine could compute something else.
        UnknownVersionError: no release of that kind was read.
    """
    found = limits(model, version, shapes)
    bad = [one for one in found if one.effect != "note"]
    if bad:
        first, more = bad[0], f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise GraphLimitError(
            f"TensorRT {version} and this graph: {first.operator} {first.node}: {first.limit}, "
            f"it has {first.value}{more}",
            first.way_out,
        )
    return found
