"""Precision plans: files, and the three ways to carry one out, run in ONNX Runtime where that can run them."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnxruntime.transformers.float16 import convert_float_to_float16

from helpers.detector.preprocess import prepare, read_picture
from helpers.export import exporter as export
from helpers.graph import detect
from helpers.graph.cut import run_graph
from helpers.graph.file import load_onnx
from helpers.graph.onnx_runtime import open_session
from helpers.half_precision.plan import (
    Plan,
    PlanError,
    PlanNode,
    block_lists,
    cast_islands,
    feeding_fp32_only,
    join_islands,
    layer_names,
    load,
    save,
)
from helpers.half_precision.search import same_detections
from helpers.half_precision.simulation import HalfPrecisionError, round_results
from helpers.paths import DATA
from helpers.tensorrt import rtx as tensorrt_rtx

PLAN = Plan((PlanNode("far", "Add", "inf in float16"), PlanNode("back", "Sub", "")))


@pytest.fixture
def model() -> onnx.ModelProto:
    """x is moved beyond 65,504 and back; constants of each kind, an output inside of an island, and NMS."""
    nodes = [
        helper.make_node("Constant", [], ["two"], name="two", value=numpy_helper.from_array(np.float32(2))),
        helper.make_node("Mul", ["x", "two"], ["twice"], name="twice"),
        helper.make_node("Add", ["twice", "offset"], ["far"], name="far"),
        helper.make_node("Sub", ["far", "offset"], ["back"], name="back"),
        helper.make_node("Resize", ["back", "", "scales"], ["large"], name="resize", mode="nearest"),
        helper.make_node("Cast", ["count"], ["number"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Add", ["large", "number"], ["y"], name="sum"),
        helper.make_node("NonMaxSuppression", ["large", "scores", "count", "overlap"], ["picked"], name="nms"),
    ]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 4])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 4]),
            helper.make_tensor_value_info("back", TensorProto.FLOAT, [1, 2, 4]),
            helper.make_tensor_value_info("picked", TensorProto.INT64, ["n", 3]),
        ],
        [
            numpy_helper.from_array(np.array([96064], np.float32), "offset"),
            numpy_helper.from_array(np.array([1, 1, 1], np.float32), "scales"),
            numpy_helper.from_array(np.array([[[0.9, 0.8]]], np.float32), "scores"),
            numpy_helper.from_array(np.array([3], np.int64), "count"),
            numpy_helper.from_array(np.array([0.5], np.float32), "overlap"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)


X = {"x": np.array([[[0, 0, 10.3, 10], [20, 20, 30, 31]]], np.float32)}


def run(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    session = open_session(model, optimise=False)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, X), strict=True))


def types(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    return {v.name: v.type.tensor_type.elem_type for v in (*inferred.graph.value_info, *inferred.graph.output)}


def test_islands_have_their_types_in_the_graph(model):
    half = cast_islands(model, PLAN.names)
    onnx.checker.check_model(half, full_check=True)
    kinds = types(half)
    assert kinds["twice"] == kinds["large"] == kinds["number"] == TensorProto.FLOAT16
    assert kinds["far"] == kinds["back"] == kinds["y"] == TensorProto.FLOAT
    assert {t.name: t.data_type for t in half.graph.initializer}["offset/single"] == TensorProto.FLOAT
    found = run(half)
    np.testing.assert_allclose(found["back"], X["x"] * 2, atol=0.01)
    np.testing.assert_allclose(found["y"], X["x"] * 2 + 3, atol=0.02)
    assert found["picked"].shape == (2, 3)
    names = [node.name for node in half.graph.node]
    assert len(names) == len(set(names))


def test_without_islands_the_converted_graph_overflows_as_the_simulation_says(model):
    bare = run(cast_islands(model))
    simulated = run(round_results(model))
    assert np.isnan(simulated["back"]).all(), "inf - inf"
    for name, expected in simulated.items():
        np.testing.assert_array_equal(bare[name], expected)


@settings(max_examples=60)
@given(st.data())
def test_a_converted_graph_is_valid_and_computes_what_the_simulation_does(data):
    """Random graphs and islands. Inputs that half precision holds, and operators whose result is rounded once."""
    operators = st.sampled_from(["Add", "Sub", "Mul"])
    rows = data.draw(st.lists(st.tuples(operators, *[st.integers(0, 30)] * 2), min_size=1, max_size=12))
    tensors, nodes = ["x", "w", "c"], [helper.make_node("Constant", [], ["c"], name="c", value_floats=[1 / 3])]
    for i, (operator, a, b) in enumerate(rows):
        pair = [tensors[a % len(tensors)], tensors[b % len(tensors)]]
        nodes.append(helper.make_node(operator, pair, [f"t{i}"], name=f"t{i}"))
        tensors.append(f"t{i}")
    outputs = sorted({tensors[-1], data.draw(st.sampled_from(tensors[3:]))})
    graph = helper.make_graph(
        nodes,
        "random",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in outputs],
        [numpy_helper.from_array(np.array([300, 0.1, -7, 1000], np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)
    keep = data.draw(st.sets(st.sampled_from([node.name for node in nodes])))
    half = cast_islands(model, keep)
    onnx.checker.check_model(half, full_check=True)
    feeds = {"x": np.array([0.25, -2, 17, 333], np.float32)}
    # ONNX's reference has float16 arithmetic; ONNX Runtime on a CPU leaves some of the rounding out.
    with np.errstate(all="ignore"):
        found = ReferenceEvaluator(half).run(outputs, feeds)
    expected = open_session(round_results(model, keep=keep), optimise=False).run(outputs, feeds)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_operators_of_plugins_stay_in_float32(tmp_path):
    """mmcv's operators between half-precision nodes; the RoIs, weights that only a plugin reads, stay exact."""
    size = {"output_height": 2, "output_width": 2, "sampling_ratio": 2, "mode": "avg", "aligned": 1}
    nodes = [
        helper.make_node("Mul", ["x", "weight"], ["features"], name="features"),
        helper.make_node(
            "MMCVRoiAlign", ["features", "rois"], ["crops"], name="align", domain="mmcv", spatial_scale=0.5, **size
        ),
        helper.make_node("Mul", ["crops", "weight"], ["sharp"], name="sharp"),
        helper.make_node(
            "grid_sampler", ["sharp", "grid"], ["y"], name="paste", domain="mmcv",
            interpolation_mode=0, padding_mode=0, align_corners=0,
        ),
    ]  # fmt: skip
    rois = np.array([[0, 1.0003, 2, 9, 11], [0, 0, 0, 4, 4]], np.float32)
    random = np.random.default_rng(0)
    graph = helper.make_graph(
        nodes,
        "plugins",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8]),
            helper.make_tensor_value_info("grid", TensorProto.FLOAT, [2, 5, 5, 2]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3, 5, 5])],
        [
            numpy_helper.from_array(np.array([1.7], np.float32), "weight"),
            numpy_helper.from_array(rois, "rois"),
        ],
    )
    opsets = [helper.make_opsetid("", 11), helper.make_opsetid("mmcv", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    half = cast_islands(model)
    onnx.checker.check_model(half, full_check=True)
    casts = {node.output[0]: node for node in half.graph.node if node.op_type == "Cast"}
    kinds = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    align, paste = (node for node in half.graph.node if node.domain == "mmcv")
    assert casts[align.input[0]].attribute[0].i == casts[paste.input[0]].attribute[0].i == TensorProto.FLOAT
    assert paste.input[1] == "grid", "an input of the graph, never rounded"
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in half.graph.initializer}
    np.testing.assert_array_equal(stored[align.input[1]], rois)
    assert kinds == {"weight/half": TensorProto.FLOAT16, "rois/single": TensorProto.FLOAT}
    multiplied = [node.input[0] for node in half.graph.node if node.op_type == "Mul"]
    assert all(casts[name].attribute[0].i == TensorProto.FLOAT16 for name in multiplied)
    feeds = {
        "x": random.normal(size=(1, 3, 8, 8)).astype(np.float32),
        "grid": random.uniform(-1, 1, (2, 5, 5, 2)).astype(np.float32),
    }
    (exact,) = open_session(model, optimise=False).run(["y"], feeds)
    (found,) = open_session(half, optimise=False).run(["y"], feeds)
    assert np.abs(exact).max() > 0.5
    # Four roundings of numbers up to 4.
    np.testing.assert_allclose(found, exact, atol=4 * 2**-10)
    assert not np.array_equal(found, exact), "something was rounded"


def test_the_block_lists_fit_the_published_converter(model):
    lists = block_lists(model, PLAN)
    assert lists["node_block_list"] == ["far", "back"]
    assert "NonMaxSuppression" in lists["op_block_list"]
    # The converter casts around each blocked node by itself, and so through float16 inside of an island.
    apart = convert_float_to_float16(model, keep_io_types=True, **lists)
    assert np.isinf(run(apart)["back"]).all()
    converted = join_islands(apart)
    onnx.checker.check_model(converted, full_check=True)
    np.testing.assert_allclose(run(converted)["back"], X["x"] * 2, atol=0.02)


def test_a_constant_of_an_island_is_not_clamped_by_the_published_converter(model):
    """The box head's class offsets are such a constant: to 65,504 the converter would make of 96,064."""
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "offset")
    model.graph.initializer.remove(weight)
    model.graph.node.insert(0, helper.make_node("Constant", [], ["offset"], name="offset_of_class", value=weight))
    back = next(node for node in model.graph.node if node.name == "back")
    model.graph.initializer.append(numpy_helper.from_array(np.array([96000], np.float32), "less"))
    back.input[1] = "less"
    lists = block_lists(model, PLAN)
    assert lists["node_block_list"] == ["far", "back", "offset_of_class"]
    converted = join_islands(convert_float_to_float16(model, keep_io_types=True, **lists))
    np.testing.assert_allclose(run(converted)["back"], X["x"] * 2 + 64, atol=0.07)


def test_integers_that_pass_through_half_precision_are_no_island():
    """A float32 tensor may be read in place of what became of it in float16 and back; an integer one may not."""
    joined = join_islands(
        onnx.parser.parse_model("""
            <ir_version: 8, opset_import: ["" : 16]>
            g (float[2] x, int64[2] count) => (float[2] y) <float[2] w = {1, 2}> {
                x16 = Cast <to = 10> (x)  x32 = Cast <to = 1> (x16)
                w16 = Cast <to = 10> (w)  w32 = Cast <to = 1> (w16)
                far = Mul (x32, w32)
                far16 = Cast <to = 10> (far)  far32 = Cast <to = 1> (far16)
                count16 = Cast <to = 10> (count)  count32 = Cast <to = 1> (count16)
                y = Sub (far32, count32)
            }""")
    )
    reads = {node.output[0]: list(node.input) for node in joined.graph.node}
    assert reads == {"far": ["x", "w"], "count16": ["count"], "count32": ["count16"], "y": ["far", "count32"]}


def test_a_plan_is_written_and_read(tmp_path):
    path = save(PLAN, tmp_path / "plan.json")
    assert load(path) == PLAN
    path.write_text('{"nodes": [{"name": "far"}]}')
    assert load(path).names == ("far",)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"nodes": [{}]}', '{"nodes": ["far"]}', '{"nodes": 3}'])
def test_a_file_that_is_no_plan_is_named(tmp_path, text):
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(PlanError, match=r"plan\.json is no precision plan"):
        load(path)
    path.write_text(json.dumps({"nodes": [{"name": ""}]}))
    with pytest.raises(PlanError, match="a node without a name"):
        load(path)
    with pytest.raises(PlanError, match="no precision plan to read"):
        load(tmp_path / "none.json")


def test_a_plan_for_another_graph_is_refused(model):
    other = Plan((PlanNode("nowhere", "Add", ""),))
    for use in (layer_names, block_lists):
        with pytest.raises(HalfPrecisionError, match="no node 'nowhere'"):
            use(model, other)
    with pytest.raises(HalfPrecisionError, match="no node 'nowhere'"):
        cast_islands(model, other.names)
    assert layer_names(model, PLAN) == ("far", "back")


SMALL = (256, 384)


@pytest.fixture(scope="module")
def patched(emoji_detector, tmp_path_factory):
    """What the case fp16-patched of scripts/verify_tensorrt.py starts from, but smaller."""
    path = tmp_path_factory.mktemp("patched") / "x.onnx"
    applied = (*export.CORRECT["mmcv"], *export.HALF)
    return load_onnx(export.export_onnx(emoji_detector, path, "mmcv", applied=applied, input_shape=(1, 3, *SMALL)))


@pytest.mark.slow
def test_the_patched_graph_for_plugins_has_consistent_types_and_runs(patched):
    half = cast_islands(patched)
    onnx.checker.check_model(half, full_check=True)
    onnx.shape_inference.infer_shapes(half, strict_mode=True, check_type=True)
    feeds = detect.feeds([prepare(read_picture(DATA / "demo" / "crowd.jpg"), input_shape=SMALL)])
    names = ["dets", "labels"]
    exact, found = (
        dict(zip(names, open_session(graph, optimise=False, threads=2).run(names, feeds), strict=True))
        for graph in (patched, half)
    )
    assert (exact["dets"][0, :, 4] > 0.05).sum() > 20
    outcome = same_detections(exact)(found)
    assert outcome.passed, outcome.detail


@pytest.mark.slow
def test_a_strongly_typed_parser_accepts_the_whole_graph_and_builds_its_trunk(patched, tmp_path):
    """TensorRT for RTX takes types from the graph, as full TensorRT 11 does. It has no plugins: what they make is an
    input here. It refuses one wrong type."""
    half = cast_islands(tensorrt_rtx.mask_out(patched, ["MMCVRoiAlign", "grid_sampler"]))
    report = tensorrt_rtx.parse(half)
    assert report.accepted, report.complaints
    assert sum(report.layers.values()) > 1000
    next(node for node in half.graph.node if node.op_type == "Cast").attribute[0].i = TensorProto.FLOAT
    report = tensorrt_rtx.parse(half)
    assert not report.accepted
    assert "must be of same type" in report.complaints[0].words
    trunk = tensorrt_rtx.trunk(patched)
    single, half_size = (
        tensorrt_rtx.build(graph, tmp_path / "x.engine").bytes for graph in (trunk, cast_islands(trunk))
    )
    assert half_size < 0.6 * single


def test_what_is_computed_for_nms_alone_is_named():
    """The moved boxes go to the suppression only; the boxes themselves and the scores to an output as well."""
    nodes = [
        helper.make_node("Exp", ["x"], ["boxes"], name="decode"),
        helper.make_node("Cast", ["labels"], ["number"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["number", "distance"], ["offset"], name="offset"),
        helper.make_node("Add", ["boxes", "offset"], ["moved"], name="move"),
        helper.make_node("Sigmoid", ["logits"], ["scores"], name="sigmoid"),
        helper.make_node("Transpose", ["scores"], ["turned"], name="turn", perm=[0, 2, 1]),
        helper.make_node("NonMaxSuppression", ["moved", "turned", "count"], ["picked"], name="nms"),
        helper.make_node("Identity", ["boxes"], ["found"], name="found"),
        helper.make_node("ReduceMax", ["scores"], ["best"], name="best"),
    ]
    shapes = {"x": [1, 6, 4], "labels": [1, 6, 1], "logits": [1, 6, 2]}
    kinds = {"labels": TensorProto.INT64}
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(n, kinds.get(n, TensorProto.FLOAT), shape) for n, shape in shapes.items()],
        [
            helper.make_tensor_value_info("picked", TensorProto.INT64, ["n", 3]),
            helper.make_tensor_value_info("found", TensorProto.FLOAT, [1, 6, 4]),
            helper.make_tensor_value_info("best", TensorProto.FLOAT, [1, 1, 1]),
        ],
        [
            numpy_helper.from_array(np.float32(40_000), "distance"),
            numpy_helper.from_array(np.int64(3), "count"),
        ],
    )
    toy = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)
    keep = feeding_fp32_only(toy)
    assert keep == ("cast", "offset", "move", "turn")
    feeds = {
        "x": np.random.default_rng(0).random((1, 6, 4), np.float32),
        "labels": np.array([[0, 1, 2, 0, 1, 2]]).reshape(1, 6, 1),
        "logits": np.random.default_rng(1).random((1, 6, 2), np.float32),
    }
    runs = [open_session(one).run(None, feeds) for one in (toy, cast_islands(toy, keep))]
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    offsets = [np.isfinite(run_graph(round_results(toy, keep=k), feeds, ["moved"])["moved"]).all() for k in ((), keep)]
    assert offsets == [False, True]
