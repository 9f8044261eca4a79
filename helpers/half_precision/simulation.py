"""What an ONNX graph computes when every floating-point result is rounded to half precision, on any CPU.

After each node that makes float32 tensors a pair of Cast nodes rounds them to float16 (or bfloat16) and back; inputs
and weights are rounded too. Each operator so computes in float32 on half-precision numbers and its result is rounded:
what a GPU's half-precision kernels with float32 accumulators do. Intermediate sums inside one operator do not overflow
here, as they may where a kernel accumulates in half precision.

ONNX Runtime's RoiAlign stops the run at a RoI that is not finite, or whose second corner lies before its first. Here
the former gives NaN features, so that the run goes on and the NaN is seen where it lands (what a GPU's kernel reads
there is undefined), and the latter zeros, as in mmcv's kernel. A RoI that is finite but beyond 8192 px, the ruin of an
overflow elsewhere, gives zeros too: its samples would not fit the memory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from helpers.errors import CourseError
from helpers.graph.cut import check_feeds, extract, run_part
from helpers.graph.index import GraphIndex, bodies, body_inputs, element_types
from helpers.graph.origins import Origin, origin
from helpers.half_precision.rules import FORMATS, FP32_ONLY
from helpers.operators.limits import FAR_ROI

__all__ = [
    "HalfPrecisionError",
    "Hunt",
    "Suspect",
    "float_tensors",
    "hunt",
    "require_no_bodies",
    "require_nodes",
    "round_results",
]

Array = npt.NDArray[Any]
_SCALAR = "/non_finite"


class HalfPrecisionError(CourseError):
    """The graph, the nodes to keep, or the format cannot be simulated in half precision."""


def require_no_bodies(model: onnx.ModelProto | GraphIndex) -> None:
    """Check that no If, Loop or Scan computes with float32 inside, and that the graph calls no function of its own:
    what happens there is neither rounded nor watched, by nothing in this package. Bodies that read and make other
    types alone (shapes, conditions) pass.

    Raises:
        HalfPrecisionError: naming the first such node; a type inside of a body that cannot be inferred counts.
    """
    index = GraphIndex.of(model)
    functions = {(function.domain, function.name) for function in index.model.functions}
    for node in index.nodes:
        if (node.domain, node.op_type) in functions:
            raise HalfPrecisionError(
                f"{node.name or node.output[0]!r} calls the graph's own function {node.op_type}, which half precision "
                "cannot be looked at in",
                "put what it computes into the graph, with onnx.inliner.inline_local_functions",
            )
    if not any(bodies(node) for node in index.nodes):
        return

    def inside(graph: onnx.GraphProto) -> Iterator[int]:
        types = element_types(graph)
        for node in graph.node:
            yield from (types.get(name, TensorProto.UNDEFINED) for name in node.output if name)
            for body in bodies(node):
                yield from inside(body)

    # What ONNX infers inside of the bodies is in the inferred graph alone.
    for node in shape_inference.infer_shapes(index.model, data_prop=True).graph.node:
        found = {index.types.get(name, TensorProto.UNDEFINED) for name in body_inputs(node)}
        found.update(kind for body in bodies(node) for kind in inside(body))
        if found & {TensorProto.FLOAT, TensorProto.UNDEFINED}:
            raise HalfPrecisionError(
                f"the {node.op_type} {node.name or node.output[0]!r} computes with float32 in a body, which half "
                "precision cannot be looked at in",
                "export the model without it, or replace it by what its body computes",
            )


def float_tensors(model: onnx.ModelProto | GraphIndex) -> set[str]:
    """Names of the float32 results of nodes, by ONNX's type inference. Operators of other domains, which it does not
    know, are taken to make what their first input is.

    Raises:
        HalfPrecisionError: the type of a result cannot be inferred, a result has no name, or as
            :func:`require_no_bodies`.
    """
    index = GraphIndex.of(model)
    require_no_bodies(index)
    typed = index
    while unknown := [node for node in index.nodes if any(name and name not in typed.types for name in node.output)]:
        # Nodes are in topological order: behind the first unknown one, types may be missing because of it.
        foreign = [n for n in unknown if n.domain not in ("", "ai.onnx") and n.input and n.input[0] in typed.types]
        if not foreign:
            break
        assumed = onnx.ModelProto()
        assumed.CopyFrom(typed.model)
        assumed.graph.value_info.extend(
            helper.make_tensor_value_info(name, typed.types[node.input[0]], None)
            for node in foreign
            for name in node.output
            if name and name not in typed.types
        )
        typed = GraphIndex(assumed)
    for node in index.nodes:
        if not any(node.output):
            raise HalfPrecisionError(
                f"the result of {node.name or node.op_type} has no name", "export the graph with named tensors"
            )
    if unknown:
        node = unknown[0]
        name = next(name for name in node.output if name and name not in typed.types)
        raise HalfPrecisionError(
            f"the type of {name!r}, made by {node.name or node.op_type}, cannot be inferred",
            "add the tensor with its type to the graph's value_info",
        )
    return {name for name in index.producer if typed.types[name] == TensorProto.FLOAT}


def require_nodes(model: onnx.ModelProto | GraphIndex, names: Collection[str]) -> None:
    """Check that nodes of these names are in the graph. Raises :class:`HalfPrecisionError` naming the first missing."""
    missing = set(names) - {node.name for node in GraphIndex.of(model).nodes}
    if missing:
        raise HalfPrecisionError(
            f"the graph has no node {sorted(missing)[0]!r} ({len(missing)} of {len(set(names))} to keep are missing)",
            "take the names from this graph",
        )


def round_results(
    model: onnx.ModelProto | GraphIndex, *, keep: Collection[str] = (), form: str = "float16", weights: bool = True
) -> onnx.ModelProto:
    """A copy of a float32 graph that rounds every float result to half precision; tensor names stay what they were.

    ``keep`` names the nodes of FP32 islands: their results are not rounded, and they read weights, constants and the
    graph's inputs as they are. A node outside of an island reads an island's result rounded, as a half-precision kernel
    would; operators of :data:`FP32_ONLY` read it as it is. ``form`` is one of :data:`FORMATS`; ``weights`` says whether
    initializers are rounded as well. Run the result with the runtime's optimisations off: they would take the pairs of
    Cast nodes out again.

    Raises:
        HalfPrecisionError: an unknown format, a node to keep that is not there, or as :func:`float_tensors`.
    """
    if form not in FORMATS:
        raise HalfPrecisionError(f"there is no half-precision format {form!r}", f"use one of: {', '.join(FORMATS)}")
    index, kept_names = GraphIndex.of(model), set(keep)
    require_nodes(index, keep)
    floats = float_tensors(index)

    def inside(node: onnx.NodeProto) -> bool:
        return node.name in kept_names or node.op_type in FP32_ONLY

    result = onnx.ModelProto()
    result.CopyFrom(index.model)
    del result.graph.node[:]
    del result.graph.value_info[:]
    # A tensor's name for the nodes of an island and for all others, where it is not the tensor's own.
    exact: dict[str, str] = {}
    rounded: dict[str, str] = {}
    for name, value in index.inputs.items():
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            rounded[name] = f"{name}/rounded"
            result.graph.node.extend(_pair(name, rounded[name], form))
    if weights:
        for tensor in [tensor for tensor in result.graph.initializer if tensor.data_type == TensorProto.FLOAT]:
            if any(inside(node) for node in index.readers(tensor.name)):
                exact[tensor.name] = f"{tensor.name}/exact"
                copy_of_weight = result.graph.initializer.add()
                copy_of_weight.CopyFrom(tensor)
                copy_of_weight.name = exact[tensor.name]
            tensor.CopyFrom(_rounded_weight(tensor, form))
    for node in index.nodes:
        kept = inside(node)
        copy = result.graph.node.add()
        copy.CopyFrom(node)
        names = exact if kept else rounded
        copy.input[:] = [names.get(name, name) for name in node.input]
        if node.op_type == "RoiAlign" and not node.domain:
            result.graph.node.pop()
            result.graph.node.extend(_tolerant_roi_align(copy))
            copy = result.graph.node[-1]
        for i, name in enumerate(node.output):
            if name not in floats:
                continue
            if not kept:
                copy.output[i] = f"{name}/exact"
                result.graph.node.extend(_pair(f"{name}/exact", name, form))
                if node.op_type == "Constant":
                    exact[name] = f"{name}/exact"
            elif not all(inside(reader) for reader in index.readers(name)):
                rounded[name] = f"{name}/rounded"
                result.graph.node.extend(_pair(name, rounded[name], form))
    return result


def _pair(source: str, target: str, form: str) -> tuple[onnx.NodeProto, onnx.NodeProto]:
    half = f"{target}/half"
    return (
        helper.make_node("Cast", [source], [half], name=f"{target}/to_half", to=FORMATS[form]),
        helper.make_node("Cast", [half], [target], name=f"{target}/from_half", to=TensorProto.FLOAT),
    )


def _tolerant_roi_align(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """RoiAlign that answers a RoI with a coordinate that is not finite with NaN; its last node makes the result."""
    prefix = f"{node.name}/guard"
    aligned = onnx.NodeProto()
    aligned.CopyFrom(node)
    rois = node.input[1]
    aligned.input[1] = f"{prefix}/safe"
    aligned.output[0] = f"{prefix}/aligned"

    def make(operator: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(operator, inputs, [output], name=output, **attributes)

    def constant(name: str, array: Array) -> onnx.NodeProto:
        return make("Constant", [], f"{prefix}/{name}", value=numpy_helper.from_array(array))

    return [
        constant("shape", np.array([-1, 1, 1, 1], np.int64)),
        constant("zero", np.zeros((), np.float32)),
        constant("far", np.full((), FAR_ROI, np.float32)),
        constant("sum", np.ones((4, 1), np.float32)),
        constant("corners", np.concatenate([np.eye(2), -np.eye(2)]).astype(np.float32)),
        constant("sum_of_corners", np.ones((2, 1), np.float32)),
        # x - x is 0, or NaN where x is not finite.
        make("Sub", [rois, rois], f"{prefix}/poison"),
        make("Abs", [rois], f"{prefix}/size"),
        # False for NaN.
        make("Less", [f"{prefix}/size", f"{prefix}/far"], f"{prefix}/near"),
        make("Where", [f"{prefix}/near", rois, f"{prefix}/zero"], f"{prefix}/finite"),
        # First corner less second corner: positive where the RoI is the wrong way round.
        make("MatMul", [f"{prefix}/finite", f"{prefix}/corners"], f"{prefix}/difference"),
        make("Relu", [f"{prefix}/difference"], f"{prefix}/reversed"),
        make("MatMul", [f"{prefix}/reversed", f"{prefix}/sum_of_corners"], f"{prefix}/any_reversed"),
        make("Cast", [f"{prefix}/any_reversed"], f"{prefix}/empty", to=TensorProto.BOOL),
        make("Where", [f"{prefix}/empty", f"{prefix}/zero", f"{prefix}/finite"], f"{prefix}/safe"),
        aligned,
        make("MatMul", [f"{prefix}/poison", f"{prefix}/sum"], f"{prefix}/of_roi"),
        make("Reshape", [f"{prefix}/of_roi", f"{prefix}/shape"], f"{prefix}/column"),
        helper.make_node("Add", [f"{prefix}/aligned", f"{prefix}/column"], [node.output[0]], name=f"{prefix}/result"),
    ]


def _rounded_weight(tensor: onnx.TensorProto, form: str) -> onnx.TensorProto:
    exact = numpy_helper.to_array(tensor)
    kind = helper.tensor_dtype_to_np_dtype(FORMATS[form])
    with np.errstate(over="ignore"):
        return numpy_helper.from_array(exact.astype(kind).astype(np.float32), tensor.name)


@dataclass(frozen=True)
class Suspect:
    """A node with a non-finite result. tensor: the result; inf, nan: whether it holds such a value."""

    node: str
    operator: str
    tensor: str
    inf: bool
    nan: bool
    where: Origin

    def __str__(self) -> str:
        what = " and ".join(word for word, is_so in (("inf", self.inf), ("NaN", self.nan)) if is_so)
        return f"{self.tensor}: {what} from {self.operator}, {self.where}"


@dataclass(frozen=True)
class Hunt:
    """The non-finite results of one run, in graph order.

    suspects: all of them that half precision is to blame for. first_inf, first_nan: the first of each kind, None if
    there is none. chain: from the earliest suspect that leads to the first NaN by suspects alone, to the first NaN,
    each an input of the next. watched: how many float tensors were looked at. already: results that are not finite in
    float32 either, in the same places (a mask of -inf before a Softmax): none of half precision's doing.
    """

    suspects: tuple[Suspect, ...]
    first_inf: Suspect | None
    first_nan: Suspect | None
    chain: tuple[Suspect, ...]
    watched: int
    already: tuple[Suspect, ...] = ()

    def __str__(self) -> str:
        besides = f", but for {len(self.already)} that are not in float32 either" if self.already else ""
        if not self.suspects:
            return f"all of the {self.watched} float tensors are finite{besides}"
        lines = [f"{len(self.suspects)} of {self.watched} float tensors are not finite"]
        lines += [f"{len(self.already)} more are not finite in float32 either"] if self.already else []
        lines += [f"first inf: {self.first_inf}"] if self.first_inf else []
        lines += [f"first NaN: {self.first_nan}"] if self.first_nan else []
        lines += [f"  {'then ' if i else 'chain: '}{suspect}" for i, suspect in enumerate(self.chain)]
        return "\n".join(lines)


def hunt(
    model: onnx.ModelProto | GraphIndex,
    feeds: Mapping[str, Array],
    *,
    keep: Collection[str] = (),
    form: str | None = "float16",
) -> Hunt:
    """Run the graph with rounded results and find where inf and NaN come from; ``form=None`` hunts in float32.

    Each float tensor is watched by two scalars computed in the graph, so that no tensor leaves it. A result of an
    island counts as its readers outside get it, rounded. An infinity that the weights hold (a constant mask) is no
    result and not reported. If anything is not finite, the same tensors are watched in a float32 run too, and where
    that has inf or NaN as well, the two are compared place by place: only what is worse in half precision is a suspect.
    (A tensor whose shape depends on the numbers, and differs, cannot be compared and is one.)

    Raises:
        HalfPrecisionError: nothing is float32, or as :func:`round_results`.
        helpers.graph.runner.GraphInputError: an input is missing, or has another type or shape.
        helpers.graph.runner.RunnerError: ONNX Runtime refuses the graph, or stops in it.
    """
    index = GraphIndex.of(model)
    feeds = check_feeds(index, feeds)
    floats = float_tensors(index)
    names = [name for node in index.nodes for name in node.output if name in floats]
    if not names:
        raise HalfPrecisionError("the graph computes nothing in float32", "give a graph that does")
    rounded = GraphIndex(round_results(index, keep=keep, form=form)) if form else index
    # What leaves an island may overflow on its border only.
    seen = {name: f"{name}/rounded" if f"{name}/rounded" in rounded.producer else name for name in names}
    found = _non_finite(rounded, list(seen.values()), feeds)
    flags = {name: found[seen[name]] for name in names if any(found[seen[name]])}
    already: dict[str, tuple[bool, bool]] = {}
    if form and flags:
        in_single = _non_finite(GraphIndex(extract(index, list(flags))), list(flags), feeds)
        both = [name for name in flags if any(in_single[name])]
        halves = run_part(extract(rounded, [seen[name] for name in both]), feeds) if both else {}
        singles = run_part(extract(index, both), feeds) if both else {}
        for name in both:
            half, single = halves[seen[name]], singles[name]
            if half.shape == single.shape:
                inf, nan = np.isinf(half) & (half != single), np.isnan(half) & ~np.isnan(single)
                already[name], flags[name] = flags[name], (bool(inf.any()), bool(nan.any()))

    def suspects(flagged: Mapping[str, tuple[bool, bool]]) -> dict[str, Suspect]:
        made = {name: index.producer[name] for name, kinds in flagged.items() if any(kinds)}
        return {
            name: Suspect(node.name, node.op_type, name, *flagged[name], origin(node)) for name, node in made.items()
        }

    blamed = suspects(flags)
    innocent = tuple(suspect for name, suspect in suspects(already).items() if name not in blamed)
    first_inf = next((s for s in blamed.values() if s.inf), None)
    first_nan = next((s for s in blamed.values() if s.nan), None)
    chain = _chain(index, blamed, first_nan) if first_nan else ()
    return Hunt(tuple(blamed.values()), first_inf, first_nan, chain, len(names), innocent)


def _non_finite(index: GraphIndex, names: list[str], feeds: Mapping[str, Array]) -> dict[str, tuple[bool, bool]]:
    """Whether each tensor holds an inf, and a NaN, from one run that no tensor leaves."""
    # A byte a value keeps the flags of a hundred masks small; ReduceMax takes bytes from opset 12 on.
    flag = TensorProto.UINT8 if index.opset() >= 12 else TensorProto.INT32
    scalars: dict[str, list[str]] = {}

    def watch(name: str) -> Iterator[onnx.NodeProto]:
        scalars[name] = [f"{name}{_SCALAR}/{test}" for test in ("IsInf", "IsNaN")]
        for test, scalar in zip(("IsInf", "IsNaN"), scalars[name], strict=True):
            yield helper.make_node(test, [name], [f"{scalar}/bool"], name=f"{scalar}/bool")
            yield helper.make_node("Cast", [f"{scalar}/bool"], [f"{scalar}/number"], to=flag)
            # Over a vector with one zero in front: the maximum of an empty tensor is an error.
            yield helper.make_node("Reshape", [f"{scalar}/number", f"{_SCALAR}/flat"], [f"{scalar}/flat"])
            yield helper.make_node("Concat", [f"{_SCALAR}/zero", f"{scalar}/flat"], [f"{scalar}/all"], axis=0)
            yield helper.make_node("ReduceMax", [f"{scalar}/all"], [scalar], keepdims=0)

    watched, wanted = onnx.ModelProto(), set(names)
    watched.CopyFrom(index.model)
    del watched.graph.node[:]
    for node in index.nodes:
        watched.graph.node.append(node)
        # Right behind the node that makes it, so that a run in this order need not keep the tensor for it.
        for name in node.output:
            if name in wanted:
                watched.graph.node.extend(watch(name))
    watched.graph.initializer.extend(
        [
            numpy_helper.from_array(np.array([-1], np.int64), f"{_SCALAR}/flat"),
            numpy_helper.from_array(np.zeros(1, helper.tensor_dtype_to_np_dtype(flag)), f"{_SCALAR}/zero"),
        ]
    )
    del watched.graph.output[:]
    outputs = [helper.make_tensor_value_info(scalar, flag, []) for name in names for scalar in scalars[name]]
    watched.graph.output.extend(outputs)
    found = run_part(watched, feeds)
    return {name: (bool(found[scalars[name][0]]), bool(found[scalars[name][1]])) for name in names}


def _chain(index: GraphIndex, suspects: Mapping[str, Suspect], last: Suspect) -> tuple[Suspect, ...]:
    """The way to a tensor from the earliest of the suspects that lead to it, each an input of the next.

    suspects: by tensor, in graph order.
    """
    begin: dict[str, int] = {}
    before: dict[str, str] = {}
    for name in suspects:
        node = index.producer[name]
        begin[name] = index.position[name]
        for read in index.reads(node):
            if read in suspects and begin[read] < begin[name]:
                begin[name], before[name] = begin[read], read
    chain = [last]
    while chain[-1].tensor in before:
        chain.append(suspects[before[chain[-1].tensor]])
    return tuple(reversed(chain))
