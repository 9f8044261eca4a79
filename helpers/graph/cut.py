"""Parts of a graph: cut out between any two tensors, run, and walked through tensor by tensor."""

from __future__ import annotations

import contextlib
import copy
import ctypes
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import shape_inference
from tqdm import tqdm

from helpers.graph.index import GraphIndex
from helpers.graph.onnx_runtime import open_session, owned, run_session
from helpers.graph.runner import GraphInputError, RunnerError, checked_feeds

__all__ = [
    "GraphInputError",
    "check_feeds",
    "constants",
    "extract",
    "give_back_memory",
    "run_graph",
    "run_part",
    "visit_tensors",
]

Array = npt.NDArray[Any]
# Outputs of a part of the graph that are held at once; the largest single tensor (0.8 GB) may exceed it.
_PART_BYTES = 400 << 20


def constants(model: onnx.ModelProto | GraphIndex) -> set[str]:
    """The names of all tensors that do not depend on the graph's inputs, and the empty name of an absent input."""
    return {*GraphIndex.of(model).fixed, ""}


def extract(
    model: onnx.ModelProto | GraphIndex, outputs: Sequence[str], inputs: Mapping[str, Array] | None = None
) -> onnx.ModelProto:
    """The part of a graph between ``inputs`` (arrays that stand in for tensors; default: the graph's own) and outputs.

    What the bodies of an If or a Loop capture comes along. (``onnx.utils.Extractor`` does not follow captures, and
    wants typed inputs and outputs, which a graph with custom operators does not have.)

    Raises:
        GraphInputError: an output does not exist.
    """
    index = GraphIndex.of(model)
    given = inputs or {}
    needed: set[str] = set()
    used: set[str] = set()
    stack = list(outputs)
    while stack:
        name = stack.pop()
        if name in used or not name:
            continue
        used.add(name)
        if name in given:
            continue
        if name in index.producer:
            node = index.producer[name]
            needed.update(node.output)
            stack += index.reads(node)
        elif name not in index.inputs and name not in index.initializers:
            raise GraphInputError(f"the graph has no tensor {name!r}", "take a name from a node's outputs")
    part = onnx.ModelProto()
    part.ir_version = index.model.ir_version
    part.opset_import.extend(index.model.opset_import)
    part.functions.extend(index.model.functions)
    part.graph.name = index.model.graph.name
    part.graph.node.extend(node for node in index.nodes if needed.intersection(node.output))
    part.graph.initializer.extend(t for name, t in index.initializers.items() if name in used and name not in given)
    part.graph.input.extend(v for name, v in index.inputs.items() if name in used and name not in given)
    for name, array in given.items():
        if name in used:
            kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            part.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, array.shape))
    # Without a type: ONNX Runtime infers it.
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    return part


def check_feeds(model: onnx.ModelProto | GraphIndex, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """The graph's inputs by name, each of the type and the shape that the graph declares; other feeds are left out.

    Raises:
        GraphInputError: an input is missing, or has another type or shape.
    """
    return checked_feeds("the graph", GraphIndex.of(model).declared(), feeds)


def run_graph(
    model: onnx.ModelProto | GraphIndex, feeds: Mapping[str, Array], outputs: Sequence[str]
) -> dict[str, Array]:
    """Any tensors of the graph by name, inner ones too, as ONNX Runtime computes them without its optimisations.

    Raises:
        GraphInputError: an input is missing, or has another type or shape; an output does not exist.
        helpers.graph.runner.RunnerError: ONNX Runtime refuses the part, or stops in it.
    """
    index = GraphIndex.of(model)
    return owned(run_part(extract(index, outputs), check_feeds(index, feeds)))


def run_part(part: onnx.ModelProto, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """All outputs of a part of a graph, from what it takes of ``arrays``, without ONNX Runtime's optimisations; in the
    session's memory, as :func:`helpers.graph.onnx_runtime.owned` tells.

    Raises:
        helpers.graph.runner.RunnerError: ONNX Runtime refuses the part, or stops in it.
    """
    session = open_session(part, optimise=False, in_order=True)
    taken = {value.name: arrays[value.name] for value in session.get_inputs()}
    return run_session(session, [output.name for output in part.graph.output], taken)


def visit_tensors(
    model: onnx.ModelProto | GraphIndex, feeds: Mapping[str, Array], visit: Callable[[str, Array], None]
) -> None:
    """Run the graph once in ONNX Runtime and call ``visit`` with name and array of every tensor that a node makes from
    the inputs, in graph order.

    The graph is cut into parts that each output everything they compute; a part takes what it needs from the ones
    before it, and a tensor is dropped after its last use. So each node runs once, and memory stays below the sum of
    what is alive at one place and 0.4 GB. ONNX Runtime's optimisations are off: they would fuse away tensors. Node
    order must be topological, as ONNX demands. Where a node stops the run, everything before it has been visited.

    Raises:
        GraphInputError: an input is missing, or has another type or shape.
        helpers.graph.runner.RunnerError: ONNX Runtime refuses a node, or stops at it.
    """
    index = GraphIndex.of(model)
    alive = check_feeds(index, feeds)
    nodes = [node for node in index.nodes if not {name for name in node.output if name} <= index.fixed]
    last_use = {name: position for position, node in enumerate(nodes) for name in index.reads(node)}
    sizes = _tensor_bytes(index.model, alive)
    progress = tqdm(total=len(nodes), desc="ONNX Runtime", unit="node", leave=False)
    start, longest = 0, len(nodes)
    with progress:
        while start < len(nodes):
            stop, total = start, 0
            while stop < min(len(nodes), start + longest) and (stop == start or total < _PART_BYTES):
                total += sum(sizes.get(name, 0) for name in nodes[stop].output)
                stop += 1
            names = [name for node in nodes[start:stop] for name in node.output if name]
            try:
                results = run_part(extract(index, names, alive), alive)
            except RunnerError:
                if stop - start == 1:
                    raise
                longest = (stop - start) // 2  # Somewhere in this part: halve it until the node is alone.
                continue
            for name, array in results.items():
                visit(name, array)
            alive |= results
            del results
            alive = {name: array for name, array in alive.items() if last_use.get(name, -1) >= stop}
            give_back_memory()
            progress.update(stop - start)
            start = stop


def _tensor_bytes(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, int]:
    """Estimated sizes from ONNX's shape inference at the feeds' shapes; tensors of unknown shape are left out."""
    bare = copy.deepcopy(model)
    for value in bare.graph.input:
        if value.name in feeds:
            kind = value.type.tensor_type.elem_type
            value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, kind, feeds[value.name].shape))
    inferred = shape_inference.infer_shapes(bare, data_prop=True)
    sizes = {}
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        kind = value.type.tensor_type
        if kind.HasField("shape"):
            count = int(np.prod([max(dim.dim_value, 1) for dim in kind.shape.dim], dtype=np.int64))
            sizes[value.name] = count * np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)).itemsize
    return sizes


def give_back_memory() -> None:
    """Return freed memory to the system, where the C library can (glibc).

    glibc keeps the pieces that a hundred mask-sized allocations leave behind: 3.3 of 4.0 GB after recording one run,
    measured, which the next run would then come on top of.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
