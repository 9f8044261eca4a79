"""One index of a graph: who makes a tensor, who reads it, what is constant. Built once and handed around."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

__all__ = ["GraphIndex", "bodies", "body_inputs"]


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

    def shapes(self) -> dict[str, tuple[int | str, ...]]:
        """Declared shapes of inputs, outputs, initializers and what value_info knows; a name is free."""
        found: dict[str, tuple[int | str, ...]] = {n: tuple(t.dims) for n, t in self.initializers.items()}
        for value in (*self.model.graph.input, *self.model.graph.value_info, *self.model.graph.output):
            kind = value.type.tensor_type
            if kind.HasField("shape"):
                found[value.name] = tuple(d.dim_param or d.dim_value for d in kind.shape.dim)
        return found
