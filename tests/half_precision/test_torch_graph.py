"""Exported graphs run by PyTorch: each operator against ONNX Runtime, half precision against its simulation.

On the CPU. The same code runs on a GPU by ``scripts/verify_half_on_gpu.py``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from helpers.compare.parity import compare
from helpers.detector.detections import Detections
from helpers.graph import detect
from helpers.graph.file import load_onnx
from helpers.graph.onnx_runtime import OnnxRunner, open_session
from helpers.graph.runner import GraphInputError
from helpers.half_precision import rules, torch_graph
from helpers.half_precision import simulation as half
from helpers.half_precision.torch_graph import OPERATORS, TorchGraph, TorchGraphError, hunt

Array = np.ndarray[Any, Any]
random = np.random.default_rng(7)


def normal(*shape: int) -> Array:
    return random.standard_normal(shape).astype(np.float32)


def positive(*shape: int) -> Array:
    return np.abs(normal(*shape)) + np.float32(0.1)


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


def model_of(nodes: list[onnx.NodeProto], weights: dict[str, Array], outputs: list[str]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "test",
        [],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)


def both(operator: str, *inputs: Array | None, results: int = 1, **attributes: Any) -> list[tuple[Array, Array]]:
    """(ours, ONNX Runtime's) for each result of one node."""
    names = ["" if array is None else f"in{i}" for i, array in enumerate(inputs)]
    outputs = [f"out{i}" for i in range(results)]
    weights = {name: array for name, array in zip(names, inputs, strict=True) if array is not None}
    model = model_of([helper.make_node(operator, names, outputs, name="node", **attributes)], weights, outputs)
    ours = TorchGraph(model).run({})
    theirs = open_session(model, optimise=False).run(outputs, {})
    return [(ours[name], array) for name, array in zip(outputs, theirs, strict=True)]


def require_same(pairs: list[tuple[Array, Array]], tolerance: float = 0.0) -> None:
    for ours, theirs in pairs:
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


WINDOW = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
RESIZE = {"coordinate_transformation_mode": "asymmetric", "mode": "nearest", "nearest_mode": "floor"}
GRID = random.uniform(-1.6, 1.6, (2, 5, 6, 2)).astype(np.float32)
# operator, inputs, attributes: exact ones first, then those that compute.
EXACT: list[tuple[str, list[Array | None], dict[str, Any]]] = [
    ("Add", [ints(1, 2, 3), ints(5)], {}),
    ("Cast", [np.array([0.9, -1.9, 7], np.float32)], {"to": TensorProto.INT64}),
    ("Cast", [np.array([True, False])], {"to": TensorProto.FLOAT}),
    ("Cast", [ints(3, -4)], {"to": TensorProto.FLOAT}),
    ("Clip", [normal(9), np.float32(-0.3), np.float32(0.4)], {}),
    ("Clip", [normal(9), None, np.float32(0.4)], {}),
    ("Clip", [normal(9), np.float32(-0.3)], {}),
    ("Concat", [normal(2, 3), normal(2, 1)], {"axis": -1}),
    ("Div", [ints(7, -7, 5, -5), ints(2, 2, -3, -3)], {}),
    ("Equal", [ints(1, 2, 3), ints(1, 5, 3)], {}),
    ("Equal", [normal(3), np.zeros(3, np.float32)], {}),
    ("Expand", [normal(3, 1), ints(2, 1, 4)], {}),
    ("Flatten", [normal(2, 3, 4)], {}),
    ("Flatten", [normal(2, 3, 4)], {"axis": -1}),
    ("Flatten", [normal(0, 3)], {"axis": 1}),
    ("Floor", [normal(9) * 3], {}),
    ("Gather", [normal(4, 3), ints(-1, 2)], {}),
    ("Gather", [normal(4, 3), np.array(-2)], {"axis": 1}),
    ("Gather", [normal(4, 3), np.array([[0, -1], [2, 1]])], {"axis": -1}),
    ("Gather", [ints(4, 5, 6), ints()], {}),
    ("Greater", [ints(1, 2, 3), ints(2, 2, 2)], {}),
    ("GreaterOrEqual", [ints(1, 2, 3), ints(2, 2, 2)], {}),
    ("Less", [ints(1, 2, 3), ints(2, 2, 2)], {}),
    ("MaxPool", [normal(1, 2, 7, 8)], {**WINDOW, "strides": [2, 2]}),
    ("MaxPool", [normal(1, 2, 7, 8)], {"kernel_shape": [1, 1], "strides": [2, 2], "ceil_mode": 0}),
    ("Min", [normal(2, 3), normal(2, 1)], {}),
    ("Mul", [normal(2, 3), normal(3)], {}),
    ("ReduceMax", [normal(2, 3, 4)], {"axes": [1, -1], "keepdims": 1}),
    ("ReduceMax", [normal(2, 3, 4)], {"axes": [1], "keepdims": 0}),
    ("Relu", [normal(9)], {}),
    ("Reshape", [normal(2, 3, 4), ints(0, -1)], {}),
    ("Resize", [normal(1, 2, 3, 5), None, None, ints(1, 2, 7, 9)], RESIZE),
    ("ScatterND", [normal(4, 3), np.array([[2], [0]]), normal(2, 3)], {}),
    ("ScatterND", [normal(4, 3), np.array([[[2, -1], [0, 0]]]), normal(1, 2)], {}),
    ("Shape", [normal(2, 0, 4)], {}),
    ("Slice", [normal(5, 6), ints(-4, 1), ints(2**63 - 1, -1), ints(1, 0), ints(2, 1)], {}),
    ("Slice", [normal(5, 6), ints(1), ints(3), ints(-1)], {}),
    ("Split", [normal(3, 6), ints(1, 2, 3)], {"axis": 1}),
    ("Squeeze", [normal(1, 3, 1), ints(-1)], {}),
    ("Squeeze", [normal(1, 3, 1), ints(0, 2)], {}),
    ("Sub", [normal(2, 3), normal(2, 1)], {}),
    ("Tile", [normal(2, 3), ints(2, 1)], {}),
    ("TopK", [np.array([[1, 3, 3, 2, 3, 1]], np.float32), ints(4)], {"axis": -1, "largest": 1, "sorted": 1}),
    ("TopK", [np.float32(random.integers(0, 9, (2, 5000))), ints(4000)], {"axis": 1}),
    ("Transpose", [normal(2, 3, 4)], {"perm": [2, 0, 1]}),
    ("Unsqueeze", [normal(2, 3), ints(-1, 0)], {}),
    ("Unsqueeze", [normal(2, 3), ints(2)], {}),
    ("Where", [np.array([[True], [False]]), normal(2, 3), np.float32(-1)], {}),
]
CLOSE: list[tuple[str, list[Array | None], dict[str, Any]]] = [
    ("Conv", [normal(1, 3, 8, 9), normal(4, 3, 3, 3), normal(4)], {**WINDOW, "strides": [2, 2]}),
    ("Conv", [normal(1, 4, 8, 9), normal(4, 2, 1, 3)], {"pads": [0, 2, 0, 2], "dilations": [1, 2], "group": 2}),
    ("ConvTranspose", [normal(2, 3, 4, 5), normal(3, 4, 2, 2), normal(4)], {"strides": [2, 2]}),
    ("ConvTranspose", [normal(2, 4, 4, 5), normal(4, 2, 3, 3)], {**WINDOW, "strides": [2, 2], "group": 2}),
    ("Div", [normal(5), positive(5)], {}),
    ("Exp", [normal(9)], {}),
    ("Gemm", [normal(3, 4), normal(5, 4), normal(5)], {"transB": 1}),
    ("GridSample", [normal(2, 1, 4, 5), GRID], {"mode": "bilinear", "padding_mode": "zeros", "align_corners": 0}),
    ("GridSample", [normal(2, 3, 4, 5), GRID], {"align_corners": 1}),
    ("Log", [positive(9)], {}),
    ("Sigmoid", [normal(9)], {}),
    ("Softmax", [normal(2, 5, 3)], {"axis": 1}),
    ("Softmax", [normal(2, 5, 3)], {}),
    ("Sqrt", [positive(9)], {}),
]  # fmt: skip
WITH_OWN_TEST = {"NonMaxSuppression", "RoiAlign"}


def results_of(operator: str) -> int:
    return {"Split": 3, "TopK": 2}.get(operator, 1)


@pytest.mark.parametrize(("operator", "inputs", "attributes"), EXACT)
def test_an_operator_that_moves_or_compares_is_exact(operator, inputs, attributes):
    require_same(both(operator, *inputs, results=results_of(operator), **attributes))


@pytest.mark.parametrize(("operator", "inputs", "attributes"), CLOSE)
def test_an_operator_that_computes_agrees_to_float_precision(operator, inputs, attributes):
    require_same(both(operator, *inputs, **attributes), 1e-5)


def test_every_operator_has_a_case():
    assert {operator for operator, *_ in EXACT + CLOSE} | WITH_OWN_TEST == set(OPERATORS)


def test_it_has_every_format_of_the_simulation():
    assert set(rules.FORMATS) < set(torch_graph.DTYPES)


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0, 2]))
def test_roi_align_agrees_with_onnx_runtime(seed, ratio):
    # RoIs of every size, partly and wholly outside, some empty; whole numbers hit the borders of the samples.
    generator = np.random.default_rng(seed)
    features = generator.standard_normal((2, 3, 6, 9)).astype(np.float32)
    corner = generator.uniform(-30, 60, (7, 2))
    rois = np.hstack([corner, corner + generator.exponential(25, (7, 2))]).astype(np.float32)
    rois[:3] = np.round(rois[:3])
    rois[3] = 0
    options = {"output_height": 2, "output_width": 3, "sampling_ratio": ratio, "spatial_scale": 0.25}
    batch = generator.integers(0, 2, 7)
    pairs = both("RoiAlign", features, rois, batch, coordinate_transformation_mode="half_pixel", **options)
    require_same(pairs, 2e-5)


def test_roi_align_in_pieces_is_the_same(monkeypatch):
    features, batch = normal(1, 2, 20, 20), np.zeros(9, np.int64)
    corner = random.uniform(0, 20, (9, 2))
    rois = np.hstack([corner, corner + 15]).astype(np.float32)
    arguments = [torch.from_numpy(array) for array in (features, rois, batch)]
    whole = OPERATORS["RoiAlign"](*arguments, output_height=3, output_width=3)
    monkeypatch.setattr(torch_graph, "_CHUNK", 300)
    pieces = OPERATORS["RoiAlign"](*arguments, output_height=3, output_width=3)
    assert isinstance(whole, torch.Tensor)
    assert isinstance(pieces, torch.Tensor)
    assert torch.equal(whole, pieces)
    assert OPERATORS["RoiAlign"](arguments[0], arguments[1][:0], arguments[2][:0]).shape == (0, 2, 1, 1)


def test_ruined_rois_get_the_simulations_answers():
    rois = np.array([[0, 0, 8, 8], [0, 0, np.inf, 8], [np.nan, 0, 8, 8], [8, 8, 0, 0], [0, 0, 9000, 8]], np.float32)
    node = helper.make_node(
        "RoiAlign", ["f", "rois", "batch"], ["y"], name="align", coordinate_transformation_mode="half_pixel",
        output_height=2, output_width=2, spatial_scale=0.5,
    )  # fmt: skip
    weights = {"f": normal(1, 2, 6, 6), "rois": rois, "batch": np.zeros(5, np.int64)}
    model = model_of([node], weights, ["y"])
    theirs = open_session(half.round_results(model), optimise=False).run(["y"], {})[0]
    ours = TorchGraph(model, dtype=torch.float16).run({})["y"]
    np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=1e-3)
    assert np.isnan(ours).all(axis=(1, 2, 3)).tolist() == [False, True, True, False, False]
    assert not ours[3:].any()


@settings(max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 2, 50]),
    st.sampled_from([0.25, 0.5, 0.7]),
    st.sampled_from([0.0, 0.4]),
)
def test_non_max_suppression_agrees_with_onnx_runtime(seed, most, overlap, floor):
    # Equal scores, boxes given from the other corner, and what an overflow leaves: infinite and NaN coordinates.
    generator = np.random.default_rng(seed)
    corner = generator.integers(0, 3, (2, 12, 2))
    boxes = np.concatenate([corner, corner + generator.integers(0, 5, (2, 12, 2))], 2).astype(np.float32)
    boxes[0, :3] = boxes[0, :3, [2, 3, 0, 1]].T
    boxes[1, 0, 2:], boxes[1, 1] = np.inf, np.inf
    boxes[1, 2, 0] = np.nan
    scores = generator.choice(np.array([0.0, 0.2, 0.5, 0.6, 0.9], np.float32), (2, 3, 12))
    limits = np.array(most), np.float32(overlap), np.float32(floor)
    require_same(both("NonMaxSuppression", boxes, scores, *limits))


# --- graphs -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def overflowing() -> onnx.ModelProto:
    """x * 1000 overflows from 66 on; the mask of zeros then makes inf * 0; a bystander stays finite."""
    nodes = [
        helper.make_node("Constant", [], ["one"], name="one", value=numpy_helper.from_array(np.ones(1, np.float32))),
        helper.make_node("Add", ["x", "one"], ["bystander"], name="bystander"),
        helper.make_node("Mul", ["x", "thousand"], ["far"], name="far"),
        helper.make_node("Reshape", ["far", "shape"], ["moved"], name="moved"),
        helper.make_node("Mul", ["moved", "mask"], ["masked"], name="masked"),
        helper.make_node("Add", ["masked", "bystander"], ["y"], name="sum"),
    ]
    weights = {"thousand": np.full(1, 1000, np.float32), "mask": np.zeros(1, np.float32), "shape": ints(-1)}
    model = model_of(nodes, weights, ["y"])
    model.graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"]))
    return model


FEED = {"x": np.array([1, 70], np.float32)}
# Nodes to keep, and how many results are then not finite in float16.
KEEPS = [
    ((), 4),
    (("far",), 4),
    (("far", "moved"), 3),
    (("far", "moved", "masked"), 0),
    (("moved",), 4),
    (("one", "bystander", "sum"), 4),
]


@pytest.mark.parametrize("form", ["float16", "bfloat16"])
@pytest.mark.parametrize(("keep", "count"), KEEPS)
def test_the_hunt_finds_what_the_simulation_finds(overflowing, keep, count, form):
    real = hunt(TorchGraph(overflowing, dtype=torch_graph.DTYPES[form], keep=keep), FEED, ["y"])
    simulated = half.hunt(overflowing, FEED, keep=keep, form=form)
    assert [(s.tensor, s.inf, s.nan) for s in real.suspects] == [(s.tensor, s.inf, s.nan) for s in simulated.suspects]
    assert real.watched == simulated.watched == 6
    assert real.first_inf == (simulated.first_inf.tensor if simulated.first_inf else None)
    assert real.first_nan == (simulated.first_nan.tensor if simulated.first_nan else None)
    assert len(real.suspects) == (count if form == "float16" else 0)
    assert np.isfinite(real.outputs["y"]).all() == (not real.suspects)


@pytest.mark.parametrize("keep", [[], ["a"], ["a", "b"], ["a", "b", "y"], ["b"], ["tenth", "b"]])
def test_islands_read_exactly_and_their_readers_round(keep):
    """With one operation a node, real half precision rounds as the simulation does, to the bit."""
    nodes = [
        helper.make_node("Constant", [], ["tenth"], name="tenth", value=numpy_helper.from_array(np.float32(0.1))),
        helper.make_node("Mul", ["x", "third"], ["a"], name="a"),
        helper.make_node("Mul", ["a", "tenth"], ["b"], name="b"),
        helper.make_node("Sub", ["b", "third"], ["y"], name="y"),
    ]
    model = model_of(nodes, {"third": np.full(1, 1 / 3, np.float32)}, ["y"])
    model.graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"]))
    feeds = {"x": np.array([1.0001, 3.3, 7.123], np.float32)}
    for form in rules.FORMATS:
        ours = TorchGraph(model, dtype=torch_graph.DTYPES[form], keep=keep).run(feeds)["y"]
        theirs = open_session(half.round_results(model, keep=keep, form=form), optimise=False).run(["y"], feeds)[0]
        np.testing.assert_array_equal(ours, theirs)


def test_non_max_suppression_reads_an_islands_boxes_unrounded():
    """At 40,000 half precision has a step of 32: rounded, both boxes are the same; unrounded, they hardly touch."""
    nodes = [
        helper.make_node("Add", ["boxes", "offset"], ["apart"], name="apart"),
        helper.make_node("NonMaxSuppression", ["apart", "scores", "most", "iou", "floor"], ["rows"], name="nms"),
    ]
    weights = {
        "boxes": np.array([[[0, 0, 17, 17], [16, 16, 33, 33]]], np.float32),
        "offset": np.full(1, 40000, np.float32),
        "scores": np.array([[[0.9, 0.8]]], np.float32),
        "most": ints(5),
        "iou": np.full(1, 0.5, np.float32),
        "floor": np.zeros(1, np.float32),
    }
    model = model_of(nodes, weights, ["rows"])
    for keep, count in (([], 1), (["apart"], 2)):
        rows = TorchGraph(model, dtype=torch.float16, keep=keep).run({})["rows"]
        assert len(rows) == count
        simulated = open_session(half.round_results(model, keep=keep), optimise=False).run(["rows"], {})[0]
        np.testing.assert_array_equal(rows, simulated)


def test_tensors_are_freed_after_their_last_use(overflowing):
    alive = []
    graph = TorchGraph(overflowing)
    original = graph._results

    def spy(step, values):
        alive.append(set(values))
        return original(step, values)

    graph._results = spy
    graph.run(FEED)
    assert alive[-1] == {"masked", "bystander"}


def test_the_embedded_detector_in_float32_agrees_with_onnx_runtime(wide, window):
    model = load_onnx(wide)
    feeds = detect.feeds([window("crowd", 192, 1216, 300)])
    runs = [OnnxRunner(model).run(feeds), TorchGraph(model).run(feeds)]
    first, second = (Detections.from_raw(run["dets"][0], run["labels"][0], run["masks"][0]) for run in runs)
    assert len(first) > 10
    compare(first, second).require()


# --- errors -----------------------------------------------------------------------------------------------------------


def one_node(operator: str, **attributes: Any) -> onnx.ModelProto:
    return model_of([helper.make_node(operator, ["x"], ["y"], name="n", **attributes)], {"x": normal(2)}, ["y"])


def test_an_operator_or_attribute_that_is_not_known_is_named():
    with pytest.raises(TorchGraphError, match="operator Erf of n is not known"):
        TorchGraph(one_node("Erf"))
    with pytest.raises(TorchGraphError, match="attribute 'alpha' of n"):
        TorchGraph(one_node("Relu", alpha=1.0))
    foreign = helper.make_node("Relu", ["x"], ["y"], name="n", domain="mmcv")
    with pytest.raises(TorchGraphError, match="operator Relu of n"):
        TorchGraph(model_of([foreign], {"x": normal(2)}, ["y"]))


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes", "words"),
    [
        ("Slice", [normal(3), ints(2), ints(0), ints(0), ints(-1)], {}, "Slice by a step of -1"),
        ("Resize", [normal(1, 1, 2, 2), None, None, ints(1, 1, 4, 4)], {}, "Resize in the mode half_pixel"),
        ("Conv", [normal(1, 1, 4, 4), normal(1, 1, 2, 2)], {"pads": [0, 0, 1, 1]}, r"pads \[0, 0, 1, 1\]"),
        ("Gemm", [normal(2, 3), normal(3, 2)], {}, "Gemm other than"),
        ("Cast", [normal(2)], {"to": TensorProto.DOUBLE}, "Cast to TensorProto.DOUBLE"),
        ("Reshape", [normal(2), ints(2)], {"allowzero": 1}, "allowzero"),
    ],
)
def test_what_an_operator_does_not_do_is_an_error(operator, inputs, attributes, words):
    with pytest.raises(TorchGraphError, match=words):
        both(operator, *inputs, **attributes)


def test_wrong_names_and_devices_are_named(overflowing, monkeypatch):
    with pytest.raises(TorchGraphError, match="no node 'nowhere'"):
        TorchGraph(overflowing, keep=["nowhere"])
    graph = TorchGraph(overflowing)
    for run in (graph.run, lambda *given: hunt(graph, *given)):
        with pytest.raises(GraphInputError, match="takes an input 'x', and the feeds have nothing"):
            run({})
        with pytest.raises(GraphInputError, match="has no output 'z'"):
            run(FEED, ["z"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TorchGraphError, match="no GPU here"):
        TorchGraph(overflowing, device="cuda")
