"""FP32 by operator type, as the article chooses it, tried out in simulation: which lists of types do, and what for.

The article (its section 7.3) sets every node of some operator types with a float output to FP32 and takes types away as
long as no NaN comes out; it ends with Concat and Add. :func:`eliminate` does that for any list and any test.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import onnx

from helpers.graph.index import GraphIndex
from helpers.half_precision.search import Outcome
from helpers.half_precision.simulation import float_tensors

__all__ = [
    "ARTICLE_FINAL",
    "ARTICLE_FIRST",
    "DATA_MOVEMENT",
    "Step",
    "eliminate",
    "nodes_of_types",
    "with_data_movement",
]

#: The article's first list of types to keep in FP32, and its last.
ARTICLE_FIRST = ("Concat", "Conv", "Add", "Sub", "Mul", "Exp", "Sqrt", "Log")
ARTICLE_FINAL = ("Concat", "Add")
#: Operators that only move numbers: what they make is as exact as what they read.
DATA_MOVEMENT = frozenset(
    {
        *("Concat", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Pad", "Reshape"),
        *("Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where"),
    }
)


def nodes_of_types(model: onnx.ModelProto | GraphIndex, types: Collection[str]) -> list[str]:
    """Names of the nodes of these operator types that make a float32 tensor, in graph order."""
    index = GraphIndex.of(model)
    floats = float_tensors(index)
    return [node.name for node in index.nodes if node.op_type in types and floats.intersection(node.output)]


def with_data_movement(model: onnx.ModelProto | GraphIndex, keep: Collection[str]) -> list[str]:
    """The nodes ``keep`` and those around them that only move numbers, in graph order.

    A node of :data:`DATA_MOVEMENT` joins where all floats that it reads are constants or come from an island, one at
    least. A Cast from integers joins where all that read it are kept: it is written as a Cast to float32. A runtime
    that chooses precisions itself (TensorRT up to 10, without strong typing) has no reason to round at either.
    """
    index = GraphIndex.of(model)
    floats = float_tensors(index)
    # A float result is no initializer.
    computed = {name for name in floats if index.producer[name].op_type != "Constant"}
    inside: set[str] = set()
    names = set(keep)
    for node in index.nodes:
        read = computed.intersection(node.input)
        if node.op_type in DATA_MOVEMENT and read and inside.issuperset(read) and floats.intersection(node.output):
            names.add(node.name)
        if node.name in names:
            inside.update(node.output)
    for node in index.nodes:
        if node.op_type == "Cast" and node.input[0] not in floats and node.output[0] in floats:
            used = {reader.name for reader in index.readers(node.output[0])}
            if used and names >= used:
                names.add(node.name)
    return [node.name for node in index.nodes if node.name in names]


@dataclass(frozen=True)
class Step:
    """One try. types: kept in FP32. dropped: the type that this try went without, empty for the list itself. nodes:
    how many nodes stayed in FP32."""

    types: tuple[str, ...]
    dropped: str
    nodes: int
    outcome: Outcome


def eliminate(
    model: onnx.ModelProto | GraphIndex, types: Sequence[str], test: Callable[[Sequence[str]], Outcome]
) -> tuple[tuple[str, ...], list[Step]]:
    """Take one type after the other out of the list, for good wherever the test still passes.

    ``test`` gets the names of all nodes that stay in FP32. Returns the list that is left and every try; where the test
    fails for the whole list, nothing is taken out.
    """
    index, left = GraphIndex.of(model), tuple(types)

    def attempt(chosen: tuple[str, ...], dropped: str) -> Step:
        names = nodes_of_types(index, chosen)
        return Step(chosen, dropped, len(names), test(names))

    steps = [attempt(left, "")]
    if steps[0].outcome.passed:
        for dropped in types:
            step = attempt(tuple(kind for kind in left if kind != dropped), dropped)
            steps.append(step)
            if step.outcome.passed:
                left = step.types
    return left, steps
