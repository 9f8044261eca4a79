"""A precision plan, the nodes of a graph that stay in FP32 and why, and three ways to carry it out.

- :func:`cast_islands`: a float16 ONNX graph with Cast nodes around the islands, for a runtime that takes the types from
  the graph (TensorRT's strong typing from 9.0 on, the only way from 11 on; ONNX Runtime).
- :func:`layer_names`: names for TensorRT's layer precisions, up to TensorRT 10 (``BuildOptions.keep_fp32`` of
  :mod:`helpers.tensorrt.builder`).
- :func:`block_lists`: arguments for the float16 converter of ONNX Runtime or onnxconverter-common, which needs
  :func:`join_islands` after it.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.transformers.onnx_model import OnnxModel

from helpers import artifacts
from helpers.errors import CourseError
from helpers.graph.index import GraphIndex
from helpers.half_precision.rules import FP32_ONLY
from helpers.half_precision.simulation import float_tensors, require_nodes

__all__ = [
    "Plan",
    "PlanError",
    "PlanNode",
    "block_lists",
    "cast_islands",
    "feeding_fp32_only",
    "join_islands",
    "layer_names",
    "load",
    "save",
]


class PlanError(CourseError):
    """A plan cannot be read, or does not fit the graph."""


@dataclass(frozen=True)
class PlanNode:
    """A node that stays in FP32: its name in the graph, its operator, and the reason in words."""

    name: str
    operator: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} ({self.operator}): {self.reason}"


@dataclass(frozen=True)
class Plan:
    """nodes: in graph order; none means that the whole graph may run in half precision."""

    nodes: tuple[PlanNode, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(node.name for node in self.nodes)


def save(plan: Plan, path: Path) -> Path:
    """Write a plan as JSON: ``{"nodes": [{"name": ..., "operator": ..., "reason": ...}, ...]}``."""
    artifacts.write_text(Path(path), json.dumps({"nodes": [asdict(node) for node in plan.nodes]}, indent=1) + "\n")
    return Path(path)


def load(path: Path) -> Plan:
    """Read a plan; operator and reason may be left out.

    Raises:
        PlanError: the file is missing or is not such JSON.
    """
    try:
        rows = artifacts.read_json(path)["nodes"]
        nodes = tuple(PlanNode(row["name"], row.get("operator", ""), row.get("reason", "")) for row in rows)
        if not isinstance(rows, list) or not all(isinstance(text, str) for node in nodes for text in astuple(node)):
            raise TypeError
    except OSError as error:
        raise PlanError(
            f"there is no precision plan to read at {path}", "write one with precision_plan.save"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PlanError(
            f"{path} is no precision plan", 'write {"nodes": [{"name": "/Add_60", "reason": "overflows"}]}'
        ) from error
    if not all(node.name for node in nodes):
        raise PlanError(f"{path} has a node without a name", "name each node as the graph does")
    return Plan(nodes)


def layer_names(model: onnx.ModelProto | GraphIndex, plan: Plan) -> tuple[str, ...]:
    """The plan's node names, which TensorRT's ONNX parser gives to the layers.

    Raises:
        helpers.half_precision.simulation.HalfPrecisionError: the plan names a node that is not in the graph.
    """
    require_nodes(model, plan.names)
    return plan.names


def block_lists(model: onnx.ModelProto | GraphIndex, plan: Plan) -> dict[str, list[str]]:
    """Arguments ``node_block_list`` and ``op_block_list`` of ``convert_float_to_float16``, as ``onnxconverter_common``
    and ``onnxruntime.transformers.float16`` both have it.

    The operators are those that ONNX does not have in float16 at all; the converters' default list is longer. Constants
    that the plan's nodes read are listed with them: the converters would store them in float16, and clamp them to
    65,504, whoever reads them.

    Raises:
        helpers.half_precision.simulation.HalfPrecisionError: the plan names a node that is not in the graph.
    """
    index, kept = GraphIndex.of(model), set(plan.names)
    require_nodes(index, kept)
    foreign = {node.op_type for node in index.nodes if node.domain not in ("", "ai.onnx")}
    constants = [
        node.name
        for node in index.nodes
        if node.op_type == "Constant" and any(reader.name in kept for reader in index.readers(node.output[0]))
    ]
    return {"node_block_list": [*plan.names, *constants], "op_block_list": sorted({*FP32_ONLY, "Resize", *foreign})}


def join_islands(model: onnx.ModelProto) -> onnx.ModelProto:
    """A converted graph without the ways from float32 through float16 back to float32.

    The converters put a Cast to float32 before and one to float16 behind each blocked node, also between two of them:
    what one island computes beyond 65,504 would be infinite at its second node.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    # The converters append the Casts of the graph's inputs at the end, which ONNX forbids.
    OnnxModel(result).topological_sort()
    index, source = GraphIndex(result), dict[str, str]()
    way = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.FLOAT
    for name, node in index.producer.items():
        first = index.made_by(name, "Cast", "Cast")
        # Only what was float32 before: a Cast to float16 may also come from integers.
        if first is not None and (index.types.get(first.input[0]), _to(first), _to(node)) == way:
            source[name] = first.input[0]
    # The graph changes from here on: no index any more.
    for node in result.graph.node:
        node.input[:] = [source.get(name, name) for name in node.input]
    # From the end: a Cast that only a dead Cast reads is dead too.
    read = set(index.outputs)
    kept = []
    for node in reversed(result.graph.node):
        if node.op_type != "Cast" or node.output[0] in read:
            read.update(GraphIndex.reads(node))
            kept.append(node)
    del result.graph.node[:]
    result.graph.node.extend(reversed(kept))
    return result


def _to(node: onnx.NodeProto) -> int:
    return next(int(attribute.i) for attribute in node.attribute if attribute.name == "to")


def feeding_fp32_only(model: onnx.ModelProto | GraphIndex) -> tuple[str, ...]:
    """Names of the nodes, in graph order, whose float results go to operators of
    :data:`helpers.half_precision.rules.FP32_ONLY` and nowhere else: what is computed for NonMaxSuppression alone, as
    the boxes that are moved apart by class or level. It takes float32 in any case: to keep these nodes in float32 moves
    the cast before the operator up to where they begin.
    """
    index = GraphIndex.of(model)
    floats = float_tensors(index)
    found: list[str] = []
    for node in reversed(index.nodes):
        results = [name for name in node.output if name]
        readers = [reader for name in results for reader in index.readers(name)]
        if (
            readers
            and floats.intersection(results)
            and not index.fixed.issuperset(results)
            and not set(results).intersection(index.outputs)
            and all(reader.op_type in FP32_ONLY or reader.name in found for reader in readers)
        ):
            found.append(node.name)
    return tuple(reversed(found))


def cast_islands(model: onnx.ModelProto | GraphIndex, keep: Collection[str] = ()) -> onnx.ModelProto:
    """A graph that computes in float16 outside of the nodes ``keep``, with the types in the graph.

    Weights are stored in the precision that their readers compute in (twice, if both kinds read them). Inputs and
    outputs of the graph keep their float32 type. A tensor that crosses a border is cast once. The operators of
    :data:`helpers.half_precision.rules.FP32_ONLY` and those of other domains than ONNX's own stay in float32. (Our
    plugins have half-precision kernels as well, but nothing in the graph says which operators do, and the functions
    that stand in for them in ONNX Runtime do not.)

    ONNX Runtime on a CPU has few float16 kernels; it computes the other nodes in float32 and leaves out the rounding
    between them. What half precision does to the numbers is :func:`helpers.half_precision.simulation.round_results`' to
    tell.

    Raises:
        helpers.half_precision.simulation.HalfPrecisionError: a node to keep is not in the graph, or a tensor's type is
        unknown.
    """
    index = GraphIndex.of(model)
    require_nodes(index, keep)
    floats, kept_names, outputs = float_tensors(index), set(keep), set(index.outputs)
    result = onnx.ModelProto()
    result.CopyFrom(index.model)
    del result.graph.node[:]
    del result.graph.value_info[:]
    del result.graph.initializer[:]
    weights = {name for name, tensor in index.initializers.items() if tensor.data_type == TensorProto.FLOAT}
    result.graph.initializer.extend(tensor for name, tensor in index.initializers.items() if name not in weights)
    # A constant is a weight: its readers take it in their own precision.
    constants = {
        n for n in floats - outputs if index.producer[n].op_type == "Constant" and index.constant(n) is not None
    }
    weights |= constants
    # Name of each float tensor in either precision, as far as it exists.
    single = {n: n for n, value in index.inputs.items() if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    half: dict[str, str] = {}

    def read(name: str, want_half: bool) -> str:
        have, other, suffix = (half, single, "/half") if want_half else (single, half, "/single")
        if name in have or (name not in other and name not in weights):
            return have.get(name, name)
        have[name] = f"{name}{suffix}"
        if name in weights:
            exact = index.constant(name)
            assert exact is not None
            with np.errstate(over="ignore"):
                stored = exact.astype(np.float16) if want_half else exact
            result.graph.initializer.append(numpy_helper.from_array(stored, have[name]))
        else:
            to = TensorProto.FLOAT16 if want_half else TensorProto.FLOAT
            result.graph.node.append(
                helper.make_node("Cast", [other[name]], [have[name]], name=f"{have[name]}/cast", to=to)
            )
        return have[name]

    for node in index.nodes:
        if constants.intersection(node.output):
            continue
        foreign = node.domain not in ("", "ai.onnx")
        is_kept = node.name in kept_names or node.op_type in FP32_ONLY or foreign
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [
            # Resize has its scales and its region in float32 whatever its data.
            read(name, not is_kept and not (node.op_type == "Resize" and i)) if name else ""
            for i, name in enumerate(node.input)
        ]
        for i, name in enumerate(node.output):
            if name not in floats:
                continue
            # A graph output keeps its name for the float32 tensor.
            copy.output[i] = f"{name}/half" if not is_kept and name in outputs else name
            (single if is_kept else half)[name] = copy.output[i]
        if not is_kept:
            _make_half(copy)
        result.graph.node.append(copy)
        for name in node.output:
            if name in outputs and name in half:
                single[name] = name
                result.graph.node.append(
                    helper.make_node("Cast", [half[name]], [name], name=f"{name}/cast", to=TensorProto.FLOAT)
                )
    return result


def _make_half(node: onnx.NodeProto) -> None:
    """Turn the float32 that a node's own attributes hold or ask for into float16."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
            with np.errstate(over="ignore"):
                attribute.t.CopyFrom(_half_tensor(attribute.t))
        elif attribute.name in ("to", "dtype") and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16


def _half_tensor(tensor: onnx.TensorProto) -> onnx.TensorProto:
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name)
