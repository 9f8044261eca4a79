"""One index of a graph: who makes a tensor, who reads it, what is constant. Built once and handed around."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper, shape_inference

__all__ = ["GraphIndex", "bodies", "body_inputs", "element_types", "with_input_shapes"]

Shape = tuple[int | str, ...]


def bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs inside an If, Loop or Scan; none of any other node."""
    return [
        body
        for attribute in node.attribute
        if attribute.type in (attribute.GRAPH, attribute.GRAPHS)
        for body in ([attribute.g] if attribute.type == attribute.GRAPH else attribute.graphs)
    ]


def body_inputs(node: onnx.NodeProto) -> Iterator[str]:
    """Names that the bodies of an If, Loop or Scan read from outside of them, at any depth."""
    for body in bodies(node):
        own = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
        for inner in body.node:
            yield from (name for name in (*inner.input, *body_inputs(inner)) if name and name not in own)
            own.update(inner.output)
        yield from (value.name for value in body.output if value.name and value.name not in own)


def element_types(graph: onnx.GraphProto) -> dict[str, int]:
    """Types (``TensorProto.DataType``) by tensor, as a graph or a body declares them. A tensor of no declared type is
    left out, and so is what lies in the bodies of the graph's nodes."""
    values = (*graph.input, *graph.value_info, *graph.output)
    # An output may be declared without a type beside a value_info that has it.
    types = {value.name: kind for value in values if (kind := value.type.tensor_type.elem_type)}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


def with_input_shapes(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> onnx.ModelProto:
    """A copy whose inputs, as far as they are named in ``shapes``, have these; the model itself where none is given."""
    if not shapes:
        return model
    known = onnx.ModelProto()
    known.CopyFrom(model)
    for value in known.graph.input:
        if value.name in shapes:
            kind = value.type.tensor_type.elem_type
            value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, kind, list(shapes[value.name])))
    return known


class GraphIndex:
    """Look-ups by tensor name. The graph must not be changed while its index is in use.

    producer: the node that makes a tensor. initializers: by name. inputs: the graph's inputs that a caller has to feed
    (an initializer may be listed among them too), with their declarations. position: of a node, by its first result.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self.model = model
        self.nodes = tuple(graph.node)
        self.initializers = {tensor.name: tensor for tensor in graph.initializer}
        self.inputs = {value.name: value for value in graph.input if value.name not in self.initializers}
        self.outputs = tuple(value.name for value in graph.output)
        self.producer = {name: node for node in self.nodes for name in node.output if name}
        self.position = {name: i for i, node in enumerate(self.nodes) for name in node.output if name}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(self.reads(node)):
                self._readers.setdefault(name, []).append(node)

    @classmethod
    def of(cls, model: onnx.ModelProto | GraphIndex) -> GraphIndex:
        """The index of a model, or the index itself."""
        return model if isinstance(model, GraphIndex) else cls(model)

    @staticmethod
    def reads(node: onnx.NodeProto) -> tuple[str, ...]:
        """Every tensor that a node needs: its inputs, and what its bodies capture."""
        return tuple(name for name in (*node.input, *body_inputs(node)) if name)

    def readers(self, name: str) -> tuple[onnx.NodeProto, ...]:
        """The nodes that read a tensor, each once, in graph order."""
        return tuple(self._readers.get(name, ()))

    def opset(self, domain: str = "") -> int:
        """The version of a domain's operators; 0 if the graph does not import it."""
        names = {domain, "ai.onnx"} if domain == "" else {domain}
        return next((entry.version for entry in self.model.opset_import if entry.domain in names), 0)

    def declared(self) -> dict[str, tuple[np.dtype[Any] | None, tuple[int | str, ...] | None]]:
        """Of each input the type and shape, None for what the graph does not say (or numpy has no type of its own
        for); in a shape a name or -1 is free."""
        found: dict[str, tuple[np.dtype[Any] | None, tuple[int | str, ...] | None]] = {}
        for name, value in self.inputs.items():
            kind = value.type.tensor_type
            known = kind.elem_type not in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING)
            shape = tuple(d.dim_param or d.dim_value or -1 for d in kind.shape.dim) if kind.HasField("shape") else None
            found[name] = (onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type) if known else None, shape)
        return found

    @functools.cached_property
    def fixed(self) -> frozenset[str]:
        """All tensors that do not depend on the graph's inputs. What an If or a Loop makes counts as dependent."""
        known = set(self.initializers)
        for node in self.nodes:
            if not bodies(node) and set(self.reads(node)) <= known:
                known.update(name for name in node.output if name)
        return frozenset(known)

    def constant(self, name: str) -> npt.NDArray[Any] | None:
        """The value of an initializer or a Constant node, also behind Casts (as before simplification); else None."""
        if name in self.initializers:
            return numpy_helper.to_array(self.initializers[name])
        node = self.producer.get(name)
        if node is not None and node.op_type == "Cast":
            value = self.constant(node.input[0])
            to = next(attribute.i for attribute in node.attribute if attribute.name == "to")
            return None if value is None else value.astype(onnx.helper.tensor_dtype_to_np_dtype(to))
        if node is None or node.op_type != "Constant":
            return None
        (attribute,) = node.attribute
        if attribute.name == "value":
            return numpy_helper.to_array(attribute.t)
        kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
        kind = kinds.get(attribute.name)
        return None if kind is None else np.array(onnx.helper.get_attribute_value(attribute), kind)

    def scalar(self, name: str) -> float | None:
        """A constant of one element as a number; None if the tensor is no such thing."""
        value = self.constant(name)
        return None if value is None or value.size != 1 else float(value.reshape(()))

    def made_by(self, name: str, *operators: str) -> onnx.NodeProto | None:
        """The node at the end of a chain of operators that leads up from a tensor by first inputs; None where it
        breaks."""
        node = None
        for operator in operators:
            node = self.producer.get(name)
            if node is None or node.op_type != operator:
                return None
            name = node.input[0]
        return node

    @property
    def types(self) -> dict[str, int]:
        """Element types (``TensorProto.DataType``) by tensor, declared or inferred by ONNX. Left out is what it cannot
        infer, as the results of other domains' operators, and what lies in bodies."""
        return self._inferred[0]

    @property
    def shapes(self) -> dict[str, Shape]:
        """Shapes by tensor, declared or inferred by ONNX, as far as the rank is known; a name is free, 0 unknown."""
        return self._inferred[1]

    @functools.cached_property
    def _inferred(self) -> tuple[dict[str, int], dict[str, Shape]]:
        graph = shape_inference.infer_shapes(self.model, data_prop=True).graph
        # Numbers and names alone: a message of the inferred model would keep all its weights in memory.
        shapes: dict[str, Shape] = {
            value.name: tuple(d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim)
            for value in (*graph.input, *graph.value_info, *graph.output)
            if value.type.tensor_type.HasField("shape")
        }
        return element_types(graph), shapes | {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
