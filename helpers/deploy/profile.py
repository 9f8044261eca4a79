"""Where the time of a graph goes in ONNX Runtime, how many operations that is, and what the machine could do.

The profiler gives the time and the shapes of every node as it was run: after fusion, in whatever layout the runtime
chose. Each is led back to the node of the graph that it does the work of, and by that one's origin
(:mod:`helpers.graph.origins`) to a part of the detector.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from helpers.errors import CourseError
from helpers.graph.index import GraphIndex
from helpers.graph.onnx_runtime import run_session
from helpers.graph.origins import Origin, origin

__all__ = [
    "PARTS",
    "NodeTime",
    "UnknownShapeError",
    "matrix_product_limit",
    "operations",
    "operations_by_part",
    "part",
    "profile",
    "seconds_by",
]

#: The parts of a two-stage detector, in the order of its data.
PARTS = (
    "backbone",
    "neck",
    "RPN's convolutions",
    "proposals",
    "RoIAlign, boxes",
    "box head",
    "choice of detections",
    "RoIAlign, masks",
    "mask head",
    "mask pasting",
    "other",
)


class UnknownShapeError(CourseError):
    """The operations of a node cannot be counted: a size of its tensors is free or not known."""


@dataclass(frozen=True)
class NodeTime:
    """One node as it was run.

    operator: the runtime's, such as Conv for a fused pair of Conv and Relu. origin: of the graph's node behind it,
    empty where there is none. seconds: of one run.
    """

    name: str
    operator: str
    origin: Origin
    seconds: float

    @property
    def part(self) -> str:
        return part(self.origin)


def part(where: Origin) -> str:
    """Which of :data:`PARTS` a node belongs to, by the module and the lines of mmdet that made it."""
    scope, lines = where.scope, " ".join(where.lines)
    if "_do_paste_mask" in lines:
        return "mask pasting"
    for begin, name in (
        ("backbone", "backbone"),
        ("neck", "neck"),
        ("rpn_head", "RPN's convolutions"),
        ("roi_head.bbox_roi_extractor", "RoIAlign, boxes"),
        ("roi_head.bbox_head", "box head"),
        ("roi_head.mask_roi_extractor", "RoIAlign, masks"),
        ("roi_head.mask_head", "mask head"),
    ):
        if scope.startswith(begin):
            return name
    for words, name in (
        ("mask_onnx_export", "mask head"),
        ("bbox_onnx_export", "choice of detections"),
        ("RPNHead", "proposals"),
        ("rpn_head", "proposals"),
    ):
        if words in lines:
            return name
    return "other"


def operations(model: onnx.ModelProto) -> dict[str, int]:
    """Floating-point operations of every convolution and matrix product, by the node's name: a multiplication and an
    addition are two. Other nodes are left out: beside these they compute next to nothing, but may take time.

    Raises:
        UnknownShapeError: a size is free.
    """
    index, found = GraphIndex(model), {}
    for node in index.nodes:
        if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            sizes = [index.shapes.get(name, ("?",)) for name in (*node.input[:2], node.output[0])]
            if any(not isinstance(size, int) or size < 1 for shape in sizes for size in shape):
                raise UnknownShapeError(f"{node.name} has no fixed shape", "export the graph without dynamic axes")
            found[node.name] = _count(node.op_type, *((int(size) for size in shape) for shape in sizes))
    return found


def _count(operator: str, data: Iterable[int], weights: Iterable[int], result: Iterable[int]) -> int:
    first, second, product = tuple(data), tuple(weights), tuple(result)
    if operator == "Conv":
        return 2 * math.prod(product) * math.prod(second[1:])
    if operator == "ConvTranspose":
        return 2 * math.prod(first) * math.prod(second[1:])
    # (m, k) and (k, n) to (m, n), the factors maybe transposed, maybe several at once: the product of all sizes is
    # (m n k)^2 times that of the batches, once for each of the tensors that has them.
    batches = math.prod(product[:-2]) if min(len(first), len(second)) > 2 else 1
    return 2 * math.isqrt(math.prod(first) * math.prod(second) * math.prod(product) // batches)


def profile(
    model: Path | onnx.ModelProto, feeds: Mapping[str, npt.NDArray[Any]], *, runs: int = 1, warm: bool = False
) -> list[NodeTime]:
    """The nodes of a graph of standard operators as ONNX Runtime runs them on the CPU, in order of execution.

    seconds are the median of ``runs`` runs; ``warm`` makes two before that are not counted, in which memory is claimed
    (in the second all that the first one needed, as one block).

    Raises:
        helpers.graph.runner.RunnerError: the run stopped.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
        session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        for _ in range(runs + 2 * warm):
            run_session(session, [output.name for output in session.get_outputs()], feeds)
        events = json.loads(Path(session.end_profiling()).read_text())
        optimised = onnx.load(options.optimized_model_filepath)
    whole = model if isinstance(model, onnx.ModelProto) else onnx.load(model)
    places = _origins(whole, optimised)
    found: dict[str, list[Mapping[str, Any]]] = {}
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            found.setdefault(event["name"].removesuffix("_kernel_time"), []).append(event)
    nothing = Origin("", ())
    return [
        NodeTime(
            name,
            several[0]["args"]["op_name"],
            places.get(name, nothing),
            float(np.median([event["dur"] for event in several[-runs:]])) / 1e6,
        )
        for name, several in found.items()
    ]


def _origins(graph: onnx.ModelProto, optimised: onnx.ModelProto) -> dict[str, Origin]:
    """The origin of each node of the optimised graph, by its name.

    A node that the optimiser made has the output of one that it replaces, or the name of that output with the layout
    behind it; one that only changes a layout belongs to what made its input.
    """
    index = GraphIndex(graph)
    own = {node.name: origin(node) for node in index.nodes}
    makes = {name: origin(node) for name, node in index.producer.items()}
    found: dict[str, Origin] = {}
    for node in optimised.graph.node:
        outputs = [*node.output, node.name.removesuffix("_nchwc")]
        known = [own[node.name]] if node.name in own else [makes[name] for name in outputs if name in makes]
        known += [makes[name] for name in node.input if name in makes]
        found[node.name] = where = known[0] if known else Origin("", ())
        makes |= {output: where for output in node.output if output and output not in makes}
    return found


def seconds_by(times: Iterable[NodeTime], key: Callable[[NodeTime], str]) -> dict[str, float]:
    """Seconds summed over a key of the nodes, such as ``lambda node: node.part`` or ``lambda node: node.operator``;
    longest first."""
    sums: dict[str, float] = {}
    for node in times:
        sums[key(node)] = sums.get(key(node), 0.0) + node.seconds
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def operations_by_part(model: onnx.ModelProto) -> dict[str, int]:
    """:func:`operations` summed over the parts that have any, in their order."""
    where = {node.name: part(origin(node)) for node in model.graph.node}
    counts = operations(model)
    sums = {name: sum(count for node, count in counts.items() if where[node] == name) for name in PARTS}
    return {name: count for name, count in sums.items() if count}


def matrix_product_limit(size: int = 1536, repeats: int = 5) -> float:
    """Floating-point operations a second of this machine, as ONNX Runtime's own product of two large float32 matrices
    reaches them: the best of several, since what a limit is no other program may take part of.
    """
    shape = [size, size]
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in "abc"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("MatMul", ["a", "b"], ["c"])], "g", values[:2], values[2:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 16)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    feeds = {name: random.standard_normal(shape, np.float32) for name in "ab"}
    best = math.inf
    for _ in range(repeats):
        start = time.perf_counter()
        session.run(None, feeds)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
