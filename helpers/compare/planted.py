"""Faults planted in a correct graph, to measure whether the search names the node that has them.

One node is changed at a time: a number in its weights or constants, an attribute, or only the order of its numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from helpers.graph.index import GraphIndex

__all__ = ["Fault", "planted_faults", "spread"]

Array = npt.NDArray[Any]
_LAYERS = ("Conv", "ConvTranspose", "Gemm")
# What else an attribute may be where the shapes stay.
_ATTRIBUTES: dict[str, dict[str, Any]] = {
    "RoiAlign": {
        "spatial_scale": lambda value: value * 1.1,
        "sampling_ratio": lambda value: value + 1,
        "coordinate_transformation_mode": lambda _: "output_half_pixel",
    },
    "Conv": {"pads": lambda value: [0, 0, 2, 2] if value == [1, 1, 1, 1] else value},
    "MaxPool": {"pads": lambda value: value[2:] + value[:2] if value[:2] != value[2:] else [2, 2, 0, 0]},
    "Softmax": {"axis": lambda value: 0 if value else 1},
    "Resize": {"mode": lambda value: "linear" if value != b"linear" else "nearest"},
    "TopK": {"largest": lambda _: 0},
    "GridSample": {
        "align_corners": lambda value: 1 - value,
        "mode": lambda _: "nearest",
        "padding_mode": lambda _: "border",
    },
}


@dataclass(frozen=True)
class Fault:
    """One change of one node. kind: what sort of change; what: in words; inputs: by position, a constant (array) or the
    name of a tensor to read instead; attributes: new values."""

    kind: str
    node: str
    operator: str
    what: str
    inputs: Mapping[int, Array | str] = field(default_factory=dict, repr=False)
    attributes: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def plant(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """A copy of the graph with the fault. Other nodes that share a constant keep the right one."""
        wrong = onnx.ModelProto()
        wrong.CopyFrom(model)
        node = next(node for node in wrong.graph.node if node.name == self.node)
        for position, value in self.inputs.items():
            if isinstance(value, str):
                node.input[position] = value
            else:
                name = f"{self.node}/planted/{position}"
                wrong.graph.initializer.append(numpy_helper.from_array(value, name))
                node.input[position] = name
        for name, value in self.attributes.items():
            for attribute in [a for a in node.attribute if a.name == name]:
                node.attribute.remove(attribute)
            node.attribute.append(onnx.helper.make_attribute(name, value))
        return wrong

    def __str__(self) -> str:
        return f"{self.kind}: {self.what} of {self.node} ({self.operator})"


def planted_faults(model: onnx.ModelProto | GraphIndex) -> Iterator[Fault]:
    """Every fault that this module knows for a graph, in graph order. Some change nothing: a bound moved that no number
    reaches, two equal rows swapped.
    """
    index = GraphIndex.of(model)
    for node in index.nodes:
        if not set(node.output) <= index.fixed:
            for fault in (*_in_constants(index, node), *_in_order(index, node), *_in_attributes(node)):
                kind, what, inputs, attributes = fault
                yield Fault(kind, node.name, node.op_type, what, inputs, attributes)


_Change = tuple[str, str, dict[int, Array | str], dict[str, Any]]


def _in_constants(index: GraphIndex, node: onnx.NodeProto) -> Iterator[_Change]:
    values = {i: index.constant(name) for i, name in enumerate(node.input) if name in index.fixed}
    arrays = {i: value for i, value in values.items() if value is not None and value.size}
    if node.op_type in _LAYERS:
        if 1 in arrays:
            yield "weights", "weights times 1.1", {1: (arrays[1] * 1.1).astype(np.float32)}, {}
        if 2 in arrays:
            yield "weights", "bias plus 0.5", {2: (arrays[2] + 0.5).astype(np.float32)}, {}
            broken = arrays[2].astype(np.float32)
            broken[0] = np.inf
            yield "infinity", "an infinite bias", {2: broken}, {}
        return
    for i, value in arrays.items():
        if value.dtype == np.float32:
            yield "constant", f"input {i}", {i: (value * 1.5 + 0.25).astype(np.float32)}, {}
    if node.op_type == "Slice" and {1, 2} <= arrays.keys():
        starts, ends = arrays[1], arrays[2]
        if starts.size == 1 and 0 <= ends.item() < 1 << 20:
            step = -1 if starts.item() > 0 else 1
            yield "index", f"starts and ends {step:+d}", {1: starts + step, 2: ends + step}, {}
    if node.op_type == "Gather" and 1 in arrays and np.issubdtype(arrays[1].dtype, np.integer) and arrays[1].size == 1:
        yield "index", "index", {1: arrays[1] + (1 if arrays[1].item() <= 0 else -1)}, {}


def _in_order(index: GraphIndex, node: onnx.NodeProto) -> Iterator[_Change]:
    if node.op_type in _LAYERS:
        axis = 1 if node.op_type == "ConvTranspose" or not _attribute(node, "transB", 0) else 0
        weights = index.constant(node.input[1])
        if weights is not None and weights.shape[axis] > 1:
            inputs: dict[int, Array | str] = {1: _swapped(weights, axis)}
            if len(node.input) > 2 and (bias := index.constant(node.input[2])) is not None:
                inputs[2] = _swapped(bias, 0)
            yield "order", "first and last channel swapped", inputs, {}
    elif node.op_type == "Transpose":
        perm = list(_attribute(node, "perm", []))
        places = [i for i in range(len(perm)) if i > 0][-2:]
        if len(places) == 2:
            a, b = places
            perm[a], perm[b] = perm[b], perm[a]
            yield "order", "perm with its last two swapped", {}, {"perm": perm}
    elif node.op_type == "Concat" and len(node.input) > 1:
        yield "order", "first two inputs swapped", {0: node.input[1], 1: node.input[0]}, {}
    elif node.op_type in ("Sub", "Div") and not set(node.input) & index.fixed:
        yield "order", "inputs swapped", {0: node.input[1], 1: node.input[0]}, {}


def _in_attributes(node: onnx.NodeProto) -> Iterator[_Change]:
    for name, change in _ATTRIBUTES.get(node.op_type, {}).items():
        default = {"TopK": 1, "GridSample": 0}.get(node.op_type)
        before = _attribute(node, name, default)
        if before is not None and (after := change(before)) != before:
            yield "attribute", name, {}, {name: after}


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def _swapped(array: Array, axis: int) -> Array:
    order = np.arange(array.shape[axis])
    order[[0, -1]] = order[[-1, 0]]
    return np.take(array, order, axis).copy()


def spread(faults: list[Fault], each: int) -> list[Fault]:
    """At most ``each`` faults of every kind of change of every operator, from the whole length of the graph."""
    groups: dict[tuple[str, str, str], list[Fault]] = {}
    for fault in faults:
        groups.setdefault((fault.kind, fault.operator, fault.what), []).append(fault)
    chosen = []
    for group in groups.values():
        places = np.linspace(0, len(group) - 1, min(each, len(group))).round().astype(int)
        chosen += [group[i] for i in dict.fromkeys(places.tolist())]
    return chosen
