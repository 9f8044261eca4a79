"""Time by part and operations by node, on the graph of the embedded model and on small graphs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.deploy import profile as profiling
from helpers.graph.file import load_onnx
from helpers.graph.origins import Origin

SHAPE = (1, 3, 256, 320)


def graph(text):
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 16]> g {text}')
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"n{number}"
    return model


def counted(model, feeds):
    """Multiplications and additions of a run with ones: each output is a sum of as many ones."""
    from helpers.graph.onnx_runtime import OnnxRunner

    (output,) = OnnxRunner(model).run({name: np.ones_like(array) for name, array in feeds.items()}).values()
    return int(2 * output.sum())


SIZES = st.integers(1, 5)


@settings(max_examples=15, derandomize=True, database=None)
@given(SIZES, SIZES, SIZES, SIZES, st.sampled_from(["", "b,", "2,b,"]), st.booleans())
def test_operations_of_matrix_products(m, k, n, b, batch, flat):
    batch = batch.replace("b", str(b))
    second = f"{k},{n}" if flat else f"{batch}{k},{n}"
    model = graph(f"(float[{batch}{m},{k}] x, float[{second}] y) => (float[{batch}{m},{n}] z) {{z = MatMul(x, y)}}")
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.input}
    feeds = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    assert profiling.operations(model) == {"n0": counted(model, feeds)}


@settings(max_examples=15, derandomize=True, database=None)
@given(st.integers(1, 3), SIZES, SIZES, st.integers(1, 3), st.booleans())
def test_operations_of_convolutions(batch, channels, features, kernel, transposed):
    weights = (channels, features) if transposed else (features, channels)
    side = 7 - kernel + 1 if not transposed else 7 + kernel - 1
    kind = "ConvTranspose" if transposed else "Conv"
    model = graph(
        f"(float[{batch},{channels},7,7] x, float[{weights[0]},{weights[1]},{kernel},{kernel}] w) =>"
        f" (float[{batch},{features},{side},{side}] z) {{z = {kind}(x, w)}}"
    )
    feeds = {
        "x": np.ones((batch, channels, 7, 7), np.float32),
        "w": np.ones((*weights, kernel, kernel), np.float32),
    }
    assert profiling.operations(model) == {"n0": counted(model, feeds)}


def test_a_free_size_cannot_be_counted():
    model = graph("(float[N,3] x, float[3,2] y) => (float[N,2] z) {z = MatMul(x, y)}")
    with pytest.raises(profiling.UnknownShapeError, match="n0 has no fixed shape"):
        profiling.operations(model)


def test_the_time_of_a_run_belongs_to_parts_of_the_detector(exported, window):
    from helpers.graph.detect import feeds

    model = load_onnx(exported("standard", SHAPE))
    times = profiling.profile(model, feeds([window("crowd", *SHAPE[2:])]))
    assert len(times) == len({node.name for node in times}) > 300
    seconds = profiling.seconds_by(times, lambda node: node.part)
    assert set(seconds) <= set(profiling.PARTS)
    assert list(seconds.values()) == sorted(seconds.values(), reverse=True)
    # Everything that computes is led back to its module, whatever the optimiser made of it.
    for operator, parts in {
        "Conv": {"backbone", "neck", "RPN's convolutions", "mask head"},
        "RoiAlign": {"RoIAlign, boxes", "RoIAlign, masks"},
        "GridSample": {"mask pasting"},
        "NonMaxSuppression": {"proposals", "choice of detections"},
        "FusedGemm": {"box head"},
        "ConvTranspose": {"mask head"},
    }.items():
        assert {node.part for node in times if node.operator == operator} == parts, operator
    assert seconds.get("other", 0) < 0.05 * sum(seconds.values())
    counts = profiling.operations_by_part(model)
    assert list(counts) == ["backbone", "neck", "RPN's convolutions", "box head", "mask head"]
    assert sum(counts.values()) == sum(profiling.operations(model).values())
    # By hand: 200 RoIs through two hidden layers of 384 and two outputs.
    assert counts["box head"] == 2 * 200 * 384 * (96 * 49 + 384 + 81 + 320)


def test_runs_are_counted_apart_and_the_warm_one_is_not():
    model = graph("(float[64,64] x) => (float[64,64] z) {y = MatMul(x, x) z = Exp(y)}")
    times = profiling.profile(model, {"x": np.ones((64, 64), np.float32)}, runs=3, warm=True)
    assert [node.operator for node in times] == ["MatMul", "Exp"]
    assert all(0 <= node.seconds < 5 for node in times)
    assert times[0].part == "other"
    assert profiling.part(Origin("", ("mmdet/x.py:1 _do_paste_mask",))) == "mask pasting"


def test_the_limit_is_that_of_a_product():
    assert 1e8 < profiling.matrix_product_limit(128, 2) < 1e14


def test_a_result_that_is_not_asked_for_is_nobodys_input():
    """Both are written as an empty name."""
    own = graph("(float[9] x, int64[1] k) => (int64[1] i) {_, i = TopK(x, k)}")
    own.graph.node[0].output[0], own.graph.node[0].doc_string = "", "rpn_head"
    made = graph("(float[9] u, float m) => (float[9] o) {_, j = TopK(u, k) o = Clip(u, , m)}")
    made.graph.node[0].output[0], made.graph.node[1].name = "", "clip"
    assert profiling._origins(own, made) == {"n0": Origin("rpn_head", ()), "clip": Origin("", ())}
