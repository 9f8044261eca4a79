"""FP32 by operator type: which nodes a list takes, what moves with them, and the elimination."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from helpers.half_precision.by_type import ARTICLE_FIRST, eliminate, nodes_of_types, with_data_movement
from helpers.half_precision.search import Outcome


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Constant", [], ["one"], name="one", value_float=1.0),
        helper.make_node("Add", ["x", "one"], ["a"], name="add"),
        helper.make_node("Reshape", ["a", "shape"], ["b"], name="reshape"),
        helper.make_node("Relu", ["b"], ["c"], name="relu"),
        helper.make_node("Concat", ["b", "c"], ["d"], name="mixed", axis=0),
        helper.make_node("Shape", ["a"], ["size"], name="shape"),
        helper.make_node("Add", ["size", "size"], ["double"], name="integers"),
        helper.make_node("Cast", ["double"], ["number"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Add", ["b", "number"], ["y"], name="sum"),
    ]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("y", "d")],
        [numpy_helper.from_array(np.array([-1], np.int64), "shape")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)


def test_a_type_takes_its_nodes_with_float_results(model):
    assert nodes_of_types(model, ["Add"]) == ["add", "sum"]
    assert nodes_of_types(model, ["Concat", "Relu"]) == ["relu", "mixed"]
    assert nodes_of_types(model, ["Conv"]) == []


def test_what_only_moves_an_islands_numbers_moves_with_it(model):
    assert with_data_movement(model, ["add"]) == ["add", "reshape"]
    assert with_data_movement(model, ["add", "relu"]) == ["add", "reshape", "relu", "mixed"]
    assert with_data_movement(model, ["sum"]) == ["cast", "sum"]
    assert with_data_movement(model, []) == []


@given(st.sets(st.sampled_from(ARTICLE_FIRST)))
def test_elimination_leaves_the_types_that_a_test_needs(model, needed):
    # One node of each type; Neg stands for Conv, which would need weights.
    types = tuple("Neg" if kind == "Conv" else kind for kind in ARTICLE_FIRST)
    graph = onnx.ModelProto()
    graph.CopyFrom(model)
    del graph.graph.node[:], graph.graph.output[:]
    for kind, name in zip(types, ARTICLE_FIRST, strict=True):
        inputs = ["x", "x"] if kind in ("Add", "Sub", "Mul") else ["x"]
        attributes = {"axis": 0} if kind == "Concat" else {}
        graph.graph.node.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        graph.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]))
    left, steps = eliminate(graph, types, lambda names: Outcome(needed <= set(names), "."))
    assert left == tuple(kind for kind, name in zip(types, ARTICLE_FIRST, strict=True) if name in needed)
    assert len(steps) == 1 + len(types)
    assert [step.dropped for step in steps] == ["", *types]
    assert steps[0].nodes == len(types)


def test_nothing_is_taken_from_a_list_that_fails(model):
    left, steps = eliminate(model, ["Add", "Relu"], lambda names: Outcome(False, "no"))
    assert left == ("Add", "Relu")
    assert [(step.types, step.nodes) for step in steps] == [(("Add", "Relu"), 3)]
