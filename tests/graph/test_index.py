"""Types and shapes by tensor: what a graph declares, what ONNX infers, and what nobody knows."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from helpers.graph.cut import _tensor_bytes
from helpers.graph.index import GraphIndex, bodies, element_types, with_input_shapes


@pytest.fixture
def model() -> onnx.ModelProto:
    """An If whose branches use one name for two types; an operator of a domain that ONNX does not know, and a Relu that
    reads what it makes."""
    return onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 16, "ours" : 1]>
        typed (float[n,3] x, bool condition) => (float[n,3] twice, z) <float[1] two = {2}, int64[2] unread = {1, 2}> {
            twice = Mul (x, two)
            size = Shape (twice)
            half = Cast <to = 10> (twice)
            found = If (condition) <
                then_branch = yes () => (int64[2] a) { inner = Identity (size)  a = Identity (inner) },
                else_branch = no () => (int64[2] b) { inner = Cast <to = 1> (size)  b = Cast <to = 7> (inner) }
            >
            y = ours.Strange (twice)
            z = Relu (y)
        }""")


def test_types_are_declared_inferred_or_left_out(model):
    index = GraphIndex(model)
    assert index.types == {
        "x": TensorProto.FLOAT,
        "condition": TensorProto.BOOL,
        "two": TensorProto.FLOAT,
        "unread": TensorProto.INT64,
        "twice": TensorProto.FLOAT,
        "size": TensorProto.INT64,
        "half": TensorProto.FLOAT16,
        "found": TensorProto.INT64,
    }, "neither what lies in a body, nor what is unknown"
    assert index.types is index.types, "inferred once"
    assert index.shapes == {"x": ("n", 3), "condition": (), "two": (1,), "unread": (2,)} | {
        "twice": ("n", 3),
        "size": (2,),
        "half": ("n", 3),
        "found": (2,),
    }
    assert not model.graph.value_info, "the model stays what it was"


def test_each_body_has_types_of_its_own(model):
    inferred = onnx.shape_inference.infer_shapes(model)
    node = next(node for node in inferred.graph.node if node.op_type == "If")
    then_branch, else_branch = sorted(bodies(node), key=lambda body: body.name, reverse=True)
    assert element_types(then_branch) == {"inner": TensorProto.INT64, "a": TensorProto.INT64}
    assert element_types(else_branch) == {"inner": TensorProto.FLOAT, "b": TensorProto.INT64}


def test_a_declared_type_tells_what_cannot_be_inferred(model):
    # "z" is an output without a type, as those of a part that was cut out.
    model.graph.value_info.extend(
        onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT16, None) for name in ("y", "z")
    )
    index = GraphIndex(model)
    assert (index.types["y"], index.types["z"]) == (TensorProto.FLOAT16, TensorProto.FLOAT16)
    assert "y" not in index.shapes
    assert element_types(model.graph)["z"] == TensorProto.FLOAT16


def test_given_input_shapes_reach_what_is_computed(model):
    fixed = with_input_shapes(model, {"x": (5, 3), "no input": (1,)})
    assert GraphIndex(fixed).shapes["half"] == (5, 3)
    assert GraphIndex(model).shapes["half"] == ("n", 3), "a copy"
    assert with_input_shapes(model, {}) is model


def test_estimated_bytes(model):
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(9), "weight"))
    assert _tensor_bytes(model, {"x": np.zeros((5, 3), np.float32)}) == {
        "twice": 60,
        "size": 16,
        "half": 30,
        "found": 16,
    }
