"""Simulated half precision and the hunt for what is not finite, on graphs whose overflow is known."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.inliner
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper, numpy_helper

from helpers.graph.cut import run_graph
from helpers.graph.onnx_runtime import open_session
from helpers.graph.runner import GraphInputError, RunnerError
from helpers.half_precision.by_type import nodes_of_types
from helpers.half_precision.plan import cast_islands
from helpers.half_precision.ranges import range_report
from helpers.half_precision.search import Outcome, Simulation, find_plan
from helpers.half_precision.simulation import HalfPrecisionError, float_tensors, hunt, round_results
from helpers.operators import library as plugin_library


def graph(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], output: str = "y") -> onnx.ModelProto:
    made = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)


@pytest.fixture
def overflowing() -> onnx.ModelProto:
    """x * 1000 overflows from 66 on; the mask of zeros then makes inf * 0; a bystander stays finite."""
    nodes = [
        helper.make_node("Add", ["x", "one"], ["bystander"], name="bystander"),
        helper.make_node("Mul", ["x", "thousand"], ["far"], name="far"),
        helper.make_node("Reshape", ["far", "shape"], ["moved"], name="moved"),
        helper.make_node("Mul", ["moved", "mask"], ["masked"], name="masked"),
        helper.make_node("Add", ["masked", "bystander"], ["y"], name="sum"),
    ]
    weights = {
        "one": np.ones(1, np.float32),
        "thousand": np.full(1, 1000, np.float32),
        "mask": np.zeros(1, np.float32),
        "shape": np.array([-1], np.int64),
    }
    return graph(nodes, weights)


FEED = {"x": np.array([1, 70], np.float32)}


def test_the_chain_leads_from_the_overflow_to_the_nan(overflowing):
    found = hunt(overflowing, FEED)
    assert found.first_inf is not None
    assert found.first_inf.node == "far"
    assert not found.first_inf.nan
    assert found.first_nan is not None
    assert found.first_nan.node == "masked"
    assert [suspect.node for suspect in found.chain] == ["far", "moved", "masked"]
    assert [suspect.node for suspect in found.suspects] == ["far", "moved", "masked", "sum"]
    assert "4 of 5" in str(found)


@pytest.mark.parametrize(("feed", "options"), [(65.0, {}), (70.0, {"form": "bfloat16"}), (70.0, {"form": None})])
def test_a_finite_run_says_so(overflowing, feed, options):
    found = hunt(overflowing, {"x": np.array([feed], np.float32)}, **options)
    assert not found.suspects
    assert not found.chain
    assert str(found) == "all of the 5 float tensors are finite"


def test_an_island_in_float32_must_hold_all_that_overflows(overflowing):
    assert [s.node for s in hunt(overflowing, FEED, keep=["far"]).suspects] == ["far", "moved", "masked", "sum"]
    # Finite inside, infinite for the reader outside.
    left = hunt(overflowing, FEED, keep=["far", "moved"])
    assert [s.node for s in left.chain] == ["moved", "masked"]
    assert not hunt(overflowing, FEED, keep=["far", "moved", "masked"]).suspects


def test_an_island_computes_in_float32_and_its_readers_outside_round():
    nodes = [
        helper.make_node("Constant", [], ["tenth"], name="tenth", value=numpy_helper.from_array(np.float32(0.1))),
        helper.make_node("Mul", ["x", "third"], ["a"], name="a"),
        helper.make_node("Mul", ["a", "tenth"], ["b"], name="b"),
        helper.make_node("Sub", ["b", "third"], ["y"], name="y"),
    ]
    third = np.full(1, 1 / 3, np.float32)
    x = np.array([1.0001, 3.3], np.float32)

    def half(array: np.ndarray) -> np.ndarray:
        return np.asarray(array, np.float32).astype(np.float16).astype(np.float32)

    def run(keep: list[str]) -> np.ndarray:
        session = open_session(round_results(graph(nodes, {"third": third}), keep=keep), optimise=False)
        return session.run(["y"], {"x": x})[0]

    inside = x * third * np.float32(0.1)
    np.testing.assert_array_equal(run(["a", "b"]), half(half(inside) - half(third)))
    np.testing.assert_array_equal(run(["a", "b", "y"]), inside - third)
    np.testing.assert_array_equal(run(["a"]), half(half(half(x * third) * half(0.1)) - half(third)))
    rounded = half(half(half(half(x) * half(third)) * half(0.1)) - half(third))
    np.testing.assert_array_equal(run([]), rounded)
    assert (rounded != inside - third).all()


def test_the_chain_begins_at_the_earliest_infinity_where_two_meet():
    """late - early, both infinite: the first input is the later one."""
    nodes = [
        helper.make_node("Mul", ["x", "thousand"], ["early"], name="early"),
        helper.make_node("Mul", ["x", "thousand"], ["late"], name="late"),
        helper.make_node("Identity", ["early"], ["moved"], name="moved"),
        helper.make_node("Sub", ["late", "moved"], ["y"], name="difference"),
    ]
    found = hunt(graph(nodes, {"thousand": np.full(1, 1000, np.float32)}), FEED)
    assert [suspect.node for suspect in found.chain] == ["early", "moved", "difference"]
    assert found.chain[0] == found.first_inf


@pytest.fixture
def masked() -> onnx.ModelProto:
    """Attention as it is written: -inf where the mask is set, then Softmax; the scores themselves are x * 1000."""
    nodes = [
        helper.make_node("Mul", ["x", "thousand"], ["scores"], name="scores"),
        helper.make_node("Where", ["mask", "infinite", "scores"], ["masked"], name="masked"),
        helper.make_node("Identity", ["masked"], ["moved"], name="moved"),
        helper.make_node("Softmax", ["moved"], ["y"], name="softmax"),
    ]
    weights = {
        "thousand": np.full(1, 1000, np.float32),
        "infinite": np.full(1, -np.inf, np.float32),
        "mask": np.array([False, False, True]),
    }
    return graph(nodes, weights)


def test_what_is_infinite_in_float32_too_is_not_half_precisions_fault(masked):
    found = hunt(masked, {"x": np.array([1, 2, 3], np.float32)})
    assert not found.suspects
    assert found.first_inf is None
    assert [suspect.node for suspect in found.already] == ["masked", "moved"]
    assert str(found) == "all of the 4 float tensors are finite, but for 2 that are not in float32 either"
    # In float32 there is nothing to compare with.
    assert [s.node for s in hunt(masked, {"x": np.ones(3, np.float32)}, form=None).suspects] == ["masked", "moved"]


def test_an_overflow_beside_a_legal_infinity_is_found(masked):
    found = hunt(masked, {"x": np.array([1, 70, 3], np.float32)})
    assert [suspect.node for suspect in found.chain] == ["scores", "masked", "moved", "softmax"]
    assert not found.already
    # Behind the mask an overflow changes nothing.
    behind = hunt(masked, {"x": np.array([1, 2, 70], np.float32)})
    assert [suspect.node for suspect in behind.suspects] == ["scores"]
    assert [suspect.node for suspect in behind.already] == ["masked", "moved"]
    assert "2 more are not finite in float32 either" in str(behind)


@pytest.mark.parametrize(
    "feeds",
    [{}, {"picture": FEED["x"]}, {"x": FEED["x"].astype(np.float64)}, {"x": np.ones((2, 2), np.float32)}],
    ids=["none", "another name", "float64", "a matrix"],
)
@pytest.mark.parametrize(
    "use",
    [
        hunt,
        lambda model, feeds: hunt(model, feeds, form=None),
        lambda model, feeds: find_plan(model, feeds, outputs=["y"], judge=lambda found: Outcome(True)),
        lambda model, feeds: Simulation(model, feeds, ["far"], outputs=["y"]),
        lambda model, feeds: range_report(model, [feeds]),
        lambda model, feeds: run_graph(model, feeds, ["y"]),
    ],
    ids=["hunt", "hunt in float32", "find_plan", "Simulation", "range_report", "run_graph"],
)
def test_wrong_feeds_are_the_same_error_everywhere(overflowing, use, feeds):
    with pytest.raises(GraphInputError, match="the graph takes .*'x'"):
        use(overflowing, feeds)


def branching(branch: str, otherwise: str, output: str = "float[2] y") -> onnx.ModelProto:
    """x to y by an If; both branches capture x."""
    return onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 16]>
        branching (float[2] x) => ({output}) <float[1] thousand = {{1000}}> {{
            positive = ReduceMax <keepdims = 0> (x)
            condition = Cast <to = 9> (positive)
            y = If (condition) <
                then_branch = one () => ({output.replace(" y", " a")}) {{ {branch} }},
                else_branch = two () => ({output.replace(" y", " b")}) {{ {otherwise} }}
            >
        }}""")


@pytest.mark.parametrize(
    "use",
    [
        hunt,
        float_tensors,
        round_results,
        cast_islands,
        lambda model, feeds: hunt(model, feeds, form=None),
        lambda model, feeds: find_plan(model, feeds, outputs=["y"], judge=lambda found: Outcome(True)),
        lambda model, feeds: Simulation(model, feeds, ["choice"], outputs=["y"]),
        lambda model, feeds: range_report(model, [feeds]),
        lambda model, feeds: nodes_of_types(model, ["Mul"]),
    ],
)
def test_a_body_that_computes_is_refused_by_name(use):
    """The branch overflows, and nothing in this package would see it."""
    model = branching("a = Mul (x, thousand)", "b = Identity (x)")
    model.graph.node[2].name = "choice"
    with pytest.raises(HalfPrecisionError, match="the If 'choice' computes with float32 in a body"):
        use(model, FEED) if use not in (float_tensors, round_results, cast_islands) else use(model)


def test_a_loop_that_computes_is_refused_and_one_that_counts_is_not():
    def loop(carried: str, step: str) -> onnx.ModelProto:
        return onnx.parser.parse_model(f"""
            <ir_version: 8, opset_import: ["" : 16]>
            looping (float[2] x, {carried} first) => (float[2] y) <int64 trips = {{3}}> {{
                yes = Constant <value = bool {{1}}> ()
                last = Loop (trips, yes, first) <body = step (int64 i, bool go, {carried} s)
                    => (bool on, {carried} t) {{
                    on = Identity (go)
                    t = {step}
                }}>
                far = Cast <to = 1> (last)
                y = Add (x, far)
            }}""")

    with pytest.raises(HalfPrecisionError, match="the Loop 'last' computes with float32"):
        hunt(loop("float[2]", "Add (s, x)"), {**FEED, "first": FEED["x"]})
    counts = loop("int64[1]", "Add (s, s)")
    found = hunt(counts, {"x": np.array([1, 64000], np.float32), "first": np.array([100], np.int64)})
    assert [(s.tensor, s.inf) for s in found.suspects] == []
    assert found.watched == 2
    found = hunt(counts, {"x": np.array([1, 64000], np.float32), "first": np.array([9000], np.int64)})
    assert [(s.tensor, s.inf) for s in found.suspects] == [("far", True), ("y", True)]


def test_a_function_that_computes_is_refused_and_is_not_where_it_was_put_into_the_graph():
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 16, "ours" : 1]>
        calling (float[2] x) => (float[2] y) { y = ours.there_and_back (x) }
        <domain: "ours", opset_import: ["" : 16]> there_and_back (a) => (c) {
            far = Constant <value = float {1000000}> ()
            b = Mul (a, far)
            c = Div (b, far)
        }""")
    for use in (hunt, lambda model, feeds: range_report(model, [feeds])):
        with pytest.raises(
            HalfPrecisionError, match=r"'y' calls the graph's own function there_and_back.*inline_local"
        ):
            use(model, FEED)
    assert [s.operator for s in hunt(onnx.inliner.inline_local_functions(model), FEED).suspects][1:] == ["Mul", "Div"]


def test_a_sequence_is_refused_by_name():
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 16]> sequences (float[4] x) => (float[n] y) {
            zero = Constant <value = int64 {0}> ()
            parts = SplitToSequence (x)
            y = SequenceAt (parts, zero)
        }""")
    feeds = {"x": np.ones(4, np.float32)}
    with pytest.raises(HalfPrecisionError, match="the type of 'parts'"):
        hunt(model, feeds)
    with pytest.raises(RunnerError, match="'parts' is a sequence of tensors"):
        range_report(model, [feeds])


def test_an_empty_tensor_is_finite(overflowing):
    assert not hunt(overflowing, {"x": np.zeros(0, np.float32)}).suspects


finite = st.floats(-70000, 70000, width=32)


@settings(max_examples=60)
@given(arrays.arrays(np.float32, st.integers(1, 8), elements=finite), finite)
def test_inputs_weights_and_results_are_rounded_as_numpy_rounds(x, weight):
    model = graph([helper.make_node("Add", ["x", "w"], ["y"], name="add")], {"w": np.full(1, weight, np.float32)})
    with np.errstate(over="ignore", invalid="ignore"):
        half = x.astype(np.float16).astype(np.float32) + np.float32(np.float16(weight))
        expected = half.astype(np.float16).astype(np.float32)
    session = open_session(round_results(model), optimise=False)
    np.testing.assert_array_equal(session.run(["y"], {"x": x})[0], expected)


def test_a_roi_that_is_not_finite_spoils_its_own_features_only():
    features = np.random.default_rng(0).standard_normal((1, 2, 8, 8)).astype(np.float32)
    rois = np.array([[0, 0, 6, 6], [1, 1, 5, 7]], np.float32)
    attributes = {"output_height": 2, "output_width": 2, "sampling_ratio": 2, "spatial_scale": 1.0}
    nodes = [
        helper.make_node("Reshape", ["x", "four"], ["rois"], name="rois"),
        helper.make_node("RoiAlign", ["features", "rois", "batch"], ["y"], name="align", **attributes),
    ]
    weights = {"four": np.array([-1, 4], np.int64), "features": features, "batch": np.zeros(2, np.int64)}
    model = graph(nodes, weights)
    plain = open_session(model).run(["y"], {"x": rois.ravel()})[0]
    guarded = open_session(round_results(model), optimise=False)
    np.testing.assert_allclose(guarded.run(["y"], {"x": rois.ravel()})[0], plain, atol=5e-3)
    adaptive = onnx.ModelProto()
    adaptive.CopyFrom(model)
    next(item for item in adaptive.graph.node[1].attribute if item.name == "sampling_ratio").i = 0
    plain_adaptive = open_session(adaptive).run(["y"], {"x": rois.ravel()})[0][0]
    rois[1, 2] = np.inf
    spoilt = guarded.run(["y"], {"x": rois.ravel()})[0]
    np.testing.assert_allclose(spoilt[0], plain[0], atol=5e-3)
    assert np.isnan(spoilt[1]).all()
    # Adaptive sampling of a RoI that large would take terabytes.
    rois[1, 2] = 65000
    far = open_session(round_results(adaptive), optimise=False).run(["y"], {"x": rois.ravel()})[0]
    np.testing.assert_allclose(far[0], plain_adaptive, atol=5e-3)
    assert np.isfinite(far[1]).all()
    # ONNX Runtime stops at a half-pixel RoI whose corners are the wrong way round.
    rois[1] = [6, 1, 1, 7]
    adaptive.graph.node[1].attribute.append(helper.make_attribute("coordinate_transformation_mode", "half_pixel"))
    with pytest.raises(Exception, match="overflow"):
        open_session(adaptive).run(["y"], {"x": rois.ravel()})
    turned = open_session(round_results(adaptive), optimise=False).run(["y"], {"x": rois.ravel()})[0]
    assert (turned[0] != 0).any()
    assert (turned[1] == 0).all()


@pytest.mark.parametrize("aligned", [0, 1])
def test_rois_that_overflowed_do_not_stop_mmcvs_roi_align(aligned):
    """mmcv's function raises an error at some of these, which would end the process from within ONNX Runtime."""
    features = np.random.default_rng(0).standard_normal((1, 2, 8, 8)).astype(np.float32)
    good, reversed_, far, gone, lost = np.array(
        [[1, 1, 5, 7], [6, 1, 1, 7], [0, 0, 65000, 65000], [0, 0, np.inf, 9], [0, np.nan, 4, 9]], np.float32
    )
    attributes = {"output_height": 2, "output_width": 3, "sampling_ratio": 0, "spatial_scale": 1.0, "mode": "avg"}
    node = helper.make_node(
        "MMCVRoiAlign", ["features", "x"], ["y"], name="align", domain="mmcv", aligned=aligned, **attributes
    )
    model = graph([node], {"features": features})
    model.graph.input[0].type.tensor_type.shape.dim.add()
    model.opset_import.append(helper.make_opsetid("mmcv", 1))
    session = open_session(model)

    def run(*boxes: np.ndarray) -> np.ndarray:
        rois = np.concatenate([np.zeros((len(boxes), 1)), np.reshape(boxes, (-1, 4))], axis=1)
        return session.run(["y"], {"x": rois.astype(np.float32)})[0]

    plain = run(good)[0]
    expected = plugin_library.roi_align(
        features, np.array([[0, *good]], np.float32), (2, 3), 1.0, sampling_ratio=0, aligned=bool(aligned)
    )
    np.testing.assert_allclose(plain, expected[0], atol=1e-5)
    found = run(lost, good, reversed_, far, gone, good)
    assert np.isnan(found[[0, 4]]).all()
    np.testing.assert_array_equal(found[[1, 5]], [plain, plain])
    assert (found[3] == 0).all()
    # Without the half-pixel shift, mmcv takes it for a RoI of one pixel.
    assert (found[2] == 0).all() == bool(aligned)
    assert np.isnan(run(gone)).all()
    assert run().shape == (0, 2, 2, 3)


def test_bad_input_is_named(overflowing):
    with pytest.raises(HalfPrecisionError, match="no node 'fra'"):
        hunt(overflowing, FEED, keep=["fra"])
    with pytest.raises(HalfPrecisionError, match="'int8'.*float16, bfloat16"):
        round_results(overflowing, form="int8")
    unknown = graph([helper.make_node("Strange", [], ["z"], name="strange", domain="ours")], {}, output="x")
    unknown.opset_import.append(helper.make_opsetid("ours", 1))
    with pytest.raises(HalfPrecisionError, match="type of 'z', made by strange"):
        round_results(unknown)
    nameless = graph([helper.make_node("Relu", ["x"], [""], name="lost")], {}, output="x")
    with pytest.raises(HalfPrecisionError, match="result of lost has no name"):
        hunt(nameless, FEED)
    double = graph([helper.make_node("Cast", ["x"], ["y"], name="wide", to=TensorProto.DOUBLE)], {})
    double.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    with pytest.raises(HalfPrecisionError, match="computes nothing in float32"):
        hunt(double, FEED)


def test_operators_of_other_domains_make_what_they_read(overflowing):
    model = graph(
        [
            helper.make_node("Strange", ["x", "w"], ["a"], name="a", domain="ours"),
            helper.make_node("Mul", ["a", "a"], ["b"], name="b"),
            helper.make_node("Strange", ["b"], ["c"], name="c", domain="ours"),
            helper.make_node("Shape", ["c"], ["shape"], name="shape"),
            helper.make_node("Relu", ["c"], ["y"], name="y"),
        ],
        {"w": np.ones(1, np.float32)},
    )
    model.opset_import.append(helper.make_opsetid("ours", 1))
    assert float_tensors(model) == {"a", "b", "c", "y"}


def test_nms_reads_what_an_island_computes():
    """Two boxes far away that overlap by 0.64: in half precision they are one box."""
    nodes = [
        helper.make_node("Add", ["x", "offset"], ["boxes"], name="moved"),
        helper.make_node("NonMaxSuppression", ["boxes", "scores", "most", "overlap"], ["picked"], name="nms"),
        helper.make_node("Cast", ["picked"], ["y"], name="count", to=TensorProto.FLOAT),
    ]
    weights = {
        "offset": np.full(1, 40000, np.float32),
        "scores": np.array([[[0.9, 0.8]]], np.float32),
        "most": np.array([9], np.int64),
        "overlap": np.array([0.7], np.float32),
    }
    model = graph(nodes, weights)
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 4]))
    feed = {"x": np.array([[[0, 0, 40, 40], [12, 0, 44, 40]]], np.float32)}
    found = {}
    for keep in ((), ("moved",)):
        session = open_session(round_results(model, keep=keep), optimise=False)
        found[keep] = len(session.run(["y"], feed)[0])
    assert found == {(): 1, ("moved",): 2}
