"""Where a graph that should take any batch has the batch of its tracing frozen into it.

Trace with a batch that no other size equals (3, say); whatever the exporter took for a number then stands in the graph
as that number. A batch of one hides it: a frozen 1 looks like, and broadcasts like, any other 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx

from helpers.errors import CourseError
from helpers.graph.index import GraphIndex
from helpers.graph.origins import Origin, origin

__all__ = ["BatchCheckError", "FrozenBatch", "frozen_batches", "require_free_batch"]


class BatchCheckError(CourseError):
    """The graph has no input to follow the batch from, or its batch is frozen where it must be free."""


@dataclass(frozen=True)
class FrozenBatch:
    """A node whose result has a constant first dimension: the value, and where the node comes from."""

    node: str
    operator: str
    value: int
    origin: Origin

    def __str__(self) -> str:
        return f"{self.operator} {self.node}: {self.value} in the batch dimension, from {self.origin}"


def frozen_batches(model: onnx.ModelProto, traced_batch: int | None = None) -> list[FrozenBatch]:
    """Reshape, Expand, Tile and Slice nodes, in graph order, that fix the batch dimension at a constant above one, and
    with ``traced_batch`` 1 those Reshape nodes that fix it at one.

    Only nodes whose data comes from the graph's inputs are looked at (anchors and other constants have a first
    dimension too). ``traced_batch`` keeps those with this value only. Reshape and Expand: first entry of the shape.
    Tile: first repeat. Slice: end on axis 0. A shape put together by Concat counts by its first part. What is computed
    beside the data, such as an index range as long as the traced batch, cannot be told from any other constant: for
    that, compare a batch with its pictures one by one. Bodies of If, Loop and Scan are not looked into.

    Raises:
        BatchCheckError: the graph has no input.
    """
    index = GraphIndex(model)
    if not index.inputs:
        raise BatchCheckError("the graph has no input whose batch could be followed", "check a whole exported graph")
    carries = set(index.inputs)
    found = []
    for node in index.nodes:
        # A tensor's shape is not its data.
        if node.op_type in ("Shape", "Size") or not carries.intersection(index.reads(node)):
            continue
        carries.update(node.output)
        if node.op_type not in ("Reshape", "Expand", "Tile", "Slice") or node.input[0] not in carries:
            continue
        for value in _batch_values(node, index):
            # Traced with one picture, a Reshape to a leading 1 holds that batch; in the other operators 1 keeps a size.
            single = value == traced_batch == 1 and node.op_type == "Reshape"
            if single or (value > 1 and traced_batch in (None, value)):
                found.append(FrozenBatch(node.name, node.op_type, value, origin(node)))
    return found


def _batch_values(node: onnx.NodeProto, index: GraphIndex) -> Iterator[int]:
    if node.op_type == "Slice":
        ends = index.constant(node.input[2]) if len(node.input) > 2 else None
        axes = index.constant(node.input[3]) if len(node.input) > 3 else None
        if ends is not None:
            # "To the end" is written as the largest integer.
            places = range(ends.size) if axes is None else axes.ravel().tolist()
            pairs = zip(places, ends.ravel().tolist(), strict=True)
            yield from (int(end) for axis, end in pairs if axis == 0 and end < np.iinfo(np.int32).max)
        return
    shape = node.input[1]
    joined = index.made_by(shape, "Concat")
    value = index.constant(shape if joined is None else joined.input[0])
    if value is not None and value.size:
        yield int(value.ravel()[0])


def require_free_batch(model: onnx.ModelProto, traced_batch: int) -> None:
    """Raises :class:`BatchCheckError` naming the first node that froze the traced batch."""
    if frozen := frozen_batches(model, traced_batch):
        raise BatchCheckError(
            f"{len(frozen)} nodes hold the traced batch, first {frozen[0]}", "give -1 for the batch where it comes from"
        )
