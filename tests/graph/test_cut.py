"""Cutting and running parts of graphs whose nodes have bodies: what a body captures comes along."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from helpers.graph import cut
from helpers.graph.cut import constants, extract, run_graph, visit_tensors
from helpers.graph.index import GraphIndex, bodies
from helpers.graph.runner import GraphInputError
from helpers.graph.views import place

X = np.array([1, -2], np.float32)


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    """An If whose branches hold an If and a Loop; they read x, a weight, and a result of the outer graph ("twice")."""
    return onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 16]>
        nested (float[2] x, bool condition, bool second) => (float[2] z) <float[1] two = {2}, int64 trips = {3}> {
            twice = Mul (x, two)
            far = Neg (twice)
            unread = Abs (x)
            y = If (condition) <
                then_branch = outer_then () => (float[2] a) {
                    own = Add (twice, two)
                    a = If (second) <
                        then_branch = inner_then () => (float[2] c) { c = Mul (own, far) },
                        else_branch = inner_else () => (float[2] d) { d = Identity (own) }
                    >
                },
                else_branch = outer_else () => (float[2] b) {
                    yes = Constant <value = bool {1}> ()
                    b = Loop (trips, yes, x) <body = step (int64 i, bool go, float[2] s) => (bool on, float[2] t) {
                        on = Identity (go)
                        t = Add (s, two)
                    }>
                }
            >
            z = Relu (y)
        }""")


def feeds(condition: bool, second: bool) -> dict[str, np.ndarray]:
    return {"x": X, "condition": np.array(condition), "second": np.array(second)}


def test_the_index_knows_what_bodies_capture(model):
    index = GraphIndex(model)
    node = index.producer["y"]
    assert len(bodies(node)) == 2
    assert set(index.reads(node)) == {"condition", "second", "twice", "two", "far", "trips", "x"}
    assert index.readers("far") == (node,)
    assert {"y", "z", "own", "a"}.isdisjoint(constants(model))


@pytest.mark.parametrize(
    ("condition", "second", "expected"),
    [(True, True, (2 * X + 2) * (-2 * X)), (True, False, 2 * X + 2), (False, True, X + 6)],
)
def test_a_part_with_bodies_runs_and_is_visited_whole(model, monkeypatch, condition, second, expected):
    given = feeds(condition, second)
    found = run_graph(model, given, ["z", "y", "twice"])
    np.testing.assert_array_equal(found["y"], expected)
    np.testing.assert_array_equal(found["z"], np.maximum(expected, 0))
    # Each node in a part of its own: what a body captures has to be kept alive until then.
    monkeypatch.setattr(cut, "_PART_BYTES", 1)
    seen = {}
    visit_tensors(model, given, lambda name, array: seen.setdefault(name, array))
    assert list(seen) == ["twice", "far", "unread", "y", "z"]
    np.testing.assert_array_equal(seen["z"], found["z"])


def test_results_do_not_keep_the_memory_of_their_run_alive(model):
    for array in run_graph(model, feeds(True, True), ["z", "y", "twice"]).values():
        assert array.flags.owndata


def test_a_part_holds_what_bodies_capture_and_no_more(model):
    part = extract(model, ["y"])
    assert [node.output[0] for node in part.graph.node] == ["twice", "far", "y"]
    given = extract(model, ["y"], {"twice": X})
    assert [node.output[0] for node in given.graph.node] == ["far", "y"]
    assert {value.name for value in given.graph.input} == {"twice", "x", "condition", "second"}
    with pytest.raises(GraphInputError, match="no tensor 'own'"):
        run_graph(model, feeds(True, True), ["own"])


def test_a_place_shows_the_makers_of_what_a_body_captures(model):
    near = place(model, lambda node: node.op_type == "Neg", hops=1)
    assert [node.output[0] for node in near.graph.node] == ["twice", "far", "y"]
    assert [value.name for value in near.graph.output] == ["y"]
    whole = place(model, lambda node: node.op_type == "Mul", hops=9)
    assert [value.name for value in whole.graph.output] == ["unread", "z"] or len(whole.graph.node) == 4
