"""A graph is held against the conditions of each version: planted at a limit and beyond, and the course's own."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from helpers.export import exporter
from helpers.export.exporter import make_onnx
from helpers.graph.file import load_onnx
from helpers.tensorrt import limits as judge
from helpers.tensorrt import operator_support as ops


def graph(
    operator: str,
    inputs: list[tuple[int, list[int | str]] | np.ndarray | None],
    *,
    opset: int = 16,
    outputs: int = 1,
    **attributes: object,
) -> onnx.ModelProto:
    """A graph of one node; an array is an initializer, a (type, shape) an input, None an input left out."""
    values, tensors, names = [], [], []
    for index, given_input in enumerate(inputs):
        names.append("" if given_input is None else f"x{index}")
        if isinstance(given_input, np.ndarray):
            tensors.append(numpy_helper.from_array(given_input, names[-1]))
        elif given_input is not None:
            values.append(helper.make_tensor_value_info(names[-1], *given_input))
    made = [f"y{index}" for index in range(outputs)]
    node = helper.make_node(operator, names, made, name="it", **attributes)
    results = [helper.make_empty_tensor_value_info(name) for name in made]
    return helper.make_model(
        helper.make_graph([node], "g", values, results, tensors), opset_imports=[helper.make_opsetid("", opset)]
    )


def top_k(k: int | None, kind: int = TensorProto.FLOAT, **attributes: int) -> onnx.ModelProto:
    count = (TensorProto.INT64, [1]) if k is None else np.array([k])
    return graph("TopK", [(kind, [1, 9000]), count], outputs=2, **attributes)


def nms(
    boxes: int | str,
    classes: int = 1,
    batch: int | str = 1,
    threshold: float | None = None,
    kind: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    inputs = [(kind, [batch, boxes, 4]), (kind, [batch, classes, boxes]), np.array([100]), np.array([0.5], np.float32)]
    return graph("NonMaxSuppression", inputs + ([] if threshold is None else [np.array([threshold], np.float32)]))


def effects(model: onnx.ModelProto, version: str, **options: object) -> list[str]:
    return [one.effect for one in judge.limits(model, version, **options)]


@pytest.mark.parametrize("version", ops.VERSIONS)
def test_top_k_at_its_limit_and_one_beyond(version: str) -> None:
    assert effects(top_k(3840), version) == []
    (found,) = judge.limits(top_k(3841), version)
    assert (found.node, found.operator, found.effect, found.value) == ("it", "TopK", "refused", "3841")
    assert "3840" in found.limit
    assert "nms_pre" in found.way_out
    assert "include/NvInfer.h" in found.source


def test_a_computed_k_is_refused_by_8_4_and_unknown_to_the_others() -> None:
    assert effects(top_k(None), "8.4") == ["refused", "note"]
    assert effects(top_k(None), "8.6") == effects(top_k(None), "11") == ["note"]


def test_a_constant_behind_a_cast_is_no_constant() -> None:
    model = top_k(1000)
    model.graph.node.insert(0, helper.make_node("Cast", ["x1"], ["k"], to=TensorProto.INT64))
    model.graph.node[1].input[1] = "k"
    assert effects(model, "8.4")[0] == "refused"


def test_8_4_takes_the_largest_whatever_the_graph_says() -> None:
    assert effects(top_k(5, largest=0), "8.4") == ["silent"]
    assert effects(top_k(5, largest=0), "8.6") == []


@pytest.mark.parametrize("version", ops.VERSIONS)
def test_nms_at_its_limit_and_one_beyond(version: str) -> None:
    assert effects(nms(5000), version) == []
    (found,) = judge.limits(nms(5001), version)
    assert (found.operator, found.effect, found.value) == ("NonMaxSuppression", "silent", "5001")
    assert "nms_pre (times the pyramid's levels at most 5000; scripts/measure_nms_pre.py" in found.way_out


@pytest.mark.parametrize("version", ops.VERSIONS)
@pytest.mark.parametrize("batch", [1, 7, "batch"])
def test_the_limit_of_nms_is_per_picture(version: str, batch: int | str) -> None:
    assert effects(nms(5000, batch=batch), version) == []
    assert effects(nms(5001, batch=batch), version) == ["silent"]


def test_nms_counts_boxes_times_classes() -> None:
    assert effects(nms(1250, classes=4), "8.6") == []
    assert effects(nms(1251, classes=4), "8.6") == ["silent"]


def test_a_score_threshold_makes_the_number_of_boxes_a_note() -> None:
    (found,) = judge.limits(nms(80_000, threshold=0.05), "10")
    assert found.effect == "note"
    assert "0.05" in found.value


def test_unknown_sizes_are_named_and_decided_once_they_are_given() -> None:
    assert effects(nms("boxes"), "10") == ["note"]
    shapes = {"x0": [1, 5001, 4], "x1": [1, 1, 5001]}
    assert effects(nms("boxes"), "10", shapes=shapes) == ["silent"]
    assert effects(nms("boxes"), "10", shapes={"x0": [1, 5000, 4], "x1": [1, 1, 5000]}) == []


@settings(max_examples=30)
@given(boxes=st.integers(1, 9000), classes=st.integers(1, 90), version=st.sampled_from(ops.VERSIONS))
def test_the_limit_is_the_product(boxes: int, classes: int, version: str) -> None:
    found = [one for one in judge.limits(nms(boxes, classes), version) if "best boxes" in one.limit]
    assert bool(found) == (boxes * classes > 5000)


def masked(boxes: int, threshold: float | None) -> onnx.ModelProto:
    """Five rows of scores, one a level, with -1 where a box is not of the row's level: patch 31's form."""
    model = nms(boxes, classes=5, threshold=threshold)
    inputs, low = model.graph.input, numpy_helper.from_array(np.array(-1, np.float32), "low")
    inputs.append(helper.make_tensor_value_info("right", TensorProto.BOOL, [1, 5, boxes]))
    model.graph.initializer.append(low)
    model.graph.node.insert(0, helper.make_node("Where", ["right", "x1", "low"], ["scores"]))
    model.graph.node[1].input[1] = "scores"
    return model


@pytest.mark.parametrize("version", ["8.6", "10", "11"])
def test_masked_scores_do_not_count_as_boxes(version: str) -> None:
    (found,) = judge.limits(masked(5000, None), version)
    assert found.effect == "note"
    assert "25000, of which those set to -1" in found.value
    (found,) = judge.limits(masked(5001, 0.0), version)
    assert (found.effect, found.value) == ("silent", "5001")
    assert effects(masked(1000, None), version) == []


def test_8_4_lets_masked_scores_and_low_thresholds_through() -> None:
    found = next(one for one in judge.limits(masked(1000, None), "8.4") if "no lower score out" in one.limit)
    # What the graph does with such a box is not known here: patch p31 drops it.
    assert (found.effect, found.value) == ("note", "0 and scores set to -1")
    assert "p31" in found.way_out
    assert "efficientNMSInference.cu:527" in found.source
    assert effects(masked(1000, 0.007), "8.4") == ["note"]
    assert effects(nms(10, threshold=0.005), "8.4") == ["silent"]
    assert effects(nms(10, threshold=0.007), "8.4") == effects(nms(10, threshold=0.0), "8.4") == []
    assert effects(nms(10, threshold=0.005), "8.6") == []


def test_8_4_takes_a_batch_of_1024_and_one_count_for_all_classes() -> None:
    assert effects(nms(10, batch=1024), "8.4") == effects(nms(10, batch="batch"), "8.4") == []
    assert effects(nms(10, batch=1025), "8.4") == ["refused"]
    assert effects(nms(10, batch=1025), "8.6") == []
    assert effects(nms(10, classes=2), "8.4") == ["note"]


def test_thresholds_must_be_constants_for_8_4() -> None:
    inputs = [(TensorProto.FLOAT, [1, 9, 4]), (TensorProto.FLOAT, [1, 1, 9]), np.array([5]), (TensorProto.FLOAT, [1])]
    assert effects(graph("NonMaxSuppression", inputs), "8.4") == ["refused"]
    assert effects(graph("NonMaxSuppression", inputs), "11") == []


def test_int64_is_int32_to_the_old_versions() -> None:
    model = graph("Range", [np.array(0), (TensorProto.INT64, []), np.array(1)])
    assert all(effects(model, version) == [] for version in ops.VERSIONS)
    assert effects(top_k(5, TensorProto.INT64), "8.4") == ["refused"]
    assert effects(top_k(5, TensorProto.INT64), "10") == []


def test_types_that_an_importer_refuses() -> None:
    bools = (TensorProto.BOOL, [3])
    both = graph("Equal", [bools, bools])
    assert effects(both, "8.4") == ["refused"]
    assert effects(both, "8.6") == []
    assert effects(graph("Add", [bools, bools]), "10") == ["refused"]
    assert effects(graph("And", [bools, (TensorProto.INT32, [3])]), "8.6") == ["refused"]
    assert effects(graph("Floor", [(TensorProto.INT64, [3])]), "10") == ["refused"]
    assert effects(graph("Where", [bools, bools, bools]), "8.4") == ["refused"]
    assert effects(graph("Where", [bools, bools, bools]), "11") == []


def test_the_conditions_of_the_newer_parsers_are_their_importers_own() -> None:
    half, ints, bools = (TensorProto.FLOAT16, []), (TensorProto.INT32, [3]), (TensorProto.BOOL, [3])
    for version in ("10", "10.16", "11"):
        # The documentation says that Range takes half precision and Relu integers: the importers refuse both.
        assert effects(graph("Range", [half, half, half]), version) == ["refused"]
        assert effects(graph("Relu", [ints]), version) == ["refused"]
        assert effects(graph("NonZero", [bools]), version) == []
        (found,) = judge.limits(graph("Unsqueeze", [ints, (TensorProto.INT64, [1])]), version)
        assert (found.effect, "include/NvInfer.h" in found.source) == ("note", True)
    assert effects(graph("Pow", [ints, ints]), "10") == ["refused"]
    assert effects(graph("Pow", [ints, ints]), "10.16") == effects(graph("Pow", [ints, ints]), "11") == []
    # What only the documentation limits is a note.
    (found,) = judge.limits(graph("Resize", [(TensorProto.INT32, [1, 3, 8, 8]), None, np.ones(4, np.float32)]), "10.16")
    assert (found.effect, found.source) == ("note", "onnx/onnx-tensorrt@6bde659:docs/operators.md:Resize")


def test_a_computed_bias_is_taken_from_8_6_on() -> None:
    picture, kernel, bias = (
        (TensorProto.FLOAT, [1, 3, 8, 8]),
        np.ones((4, 3, 1, 1), np.float32),
        (TensorProto.FLOAT, [4]),
    )
    convolution = graph("Conv", [picture, kernel, bias])
    assert effects(convolution, "8.4") == ["refused"]
    assert all(effects(convolution, version) == [] for version in ops.VERSIONS[1:])


def test_8_4_1_reads_allowzero_without_a_default_from_opset_14_on() -> None:
    inputs = [(TensorProto.FLOAT, [4]), np.array([2, 2])]
    (found,) = judge.limits(graph("Reshape", inputs), "8.4")
    assert (found.effect, "allowzero" in found.limit) == ("refused", True)
    assert effects(graph("Reshape", inputs, allowzero=0), "8.4") == effects(graph("Reshape", inputs), "8.6") == []
    assert effects(graph("Reshape", inputs, opset=13), "8.4") == []


def test_clip_to_tensors_or_in_half_precision() -> None:
    half, bound = (TensorProto.FLOAT16, [3]), (TensorProto.FLOAT16, [])
    assert effects(graph("Clip", [half, bound, bound]), "8.4") == ["refused", "silent"]
    assert effects(graph("Clip", [half, np.array(0, np.float16), np.array(1, np.float16)]), "8.4") == ["silent"]
    assert effects(graph("Clip", [half, bound, bound]), "8.6") == []
    single, limit = (TensorProto.FLOAT, [3]), (TensorProto.FLOAT, [])
    assert effects(graph("Clip", [single, limit, None]), "8.4") == []


def test_resize_and_grid_sample_modes() -> None:
    picture = (TensorProto.FLOAT, [1, 3, 8, 8])
    sizes = np.array([1, 1, 2, 2], np.float32)

    def resize(**options: object) -> onnx.ModelProto:
        return graph("Resize", [picture, None, sizes], **options)

    assert effects(resize(mode="linear"), "8.4") == []
    assert effects(resize(mode="cubic"), "8.4") == ["refused"]
    assert effects(resize(mode="cubic"), "8.6") == []
    assert effects(resize(coordinate_transformation_mode="tf_crop_and_resize"), "11") == ["refused"]
    deep = graph("Resize", [(TensorProto.FLOAT, [2, 3, 8, 8]), None, sizes[::-1].copy()], mode="linear")
    assert effects(deep, "10") == ["refused"]
    grid = (TensorProto.FLOAT, [1, 4, 4, 2])
    assert effects(graph("GridSample", [picture, grid], mode="bilinear"), "10") == []
    assert effects(graph("GridSample", [picture, grid], opset=20, mode="linear"), "10") == ["silent"]


def test_clipping_boxes_to_the_size_of_each_picture_needs_nothing_special() -> None:
    """What the picture sizes as a second input add: Gather, Min, Max, Where, comparisons, GatherElements."""
    nodes = [
        helper.make_node("Gather", ["sizes", "one"], ["width"], axis=1),
        helper.make_node("Unsqueeze", ["width", "axes"], ["wide"]),
        helper.make_node("Max", ["boxes", "zero"], ["above"]),
        helper.make_node("Min", ["above", "wide"], ["inside"]),
        helper.make_node("GreaterOrEqual", ["boxes", "zero"], ["right"]),
        helper.make_node("Where", ["right", "inside", "zero"], ["kept"]),
        helper.make_node("GatherElements", ["kept", "index"], ["out"], axis=1),
    ]
    tensors = [
        numpy_helper.from_array(np.array(1), "one"),
        numpy_helper.from_array(np.array([1]), "axes"),
        numpy_helper.from_array(np.zeros((), np.float32), "zero"),
    ]
    inputs = [
        helper.make_tensor_value_info("sizes", TensorProto.FLOAT, ["batch", 2]),
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["batch", 1000]),
        helper.make_tensor_value_info("index", TensorProto.INT64, ["batch", 100]),
    ]
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    model = helper.make_model(
        helper.make_graph(nodes, "g", inputs, [out], tensors), opset_imports=[helper.make_opsetid("", 16)]
    )
    for version in ops.VERSIONS:
        assert judge.limits(model, version) == []
        assert ops.gaps(model, version) == {}


@pytest.mark.parametrize("flavour", ["standard", "mmcv"])
def test_the_graphs_of_the_course_keep_all_conditions(emoji_detector, flavour: str) -> None:
    model = load_onnx(make_onnx("emoji", flavour, detector=emoji_detector))
    plugins = {"standard": {"RoiAlign", "GridSample"}, "mmcv": {"MMCVRoiAlign", "grid_sampler"}}[flavour]
    for one in ops.support(model):
        assert "unknown" not in one.states.values(), one.operator
    for version in ops.VERSIONS:
        # The RPN's 4741 boxes are within the limit; of the box head's, one for each RoI and class, few reach the score.
        (note,) = judge.check(model, version)
        assert note.value == "80000, of which those below 0.05 do not count"
        assert set(ops.gaps(model, version)) == (set() if flavour == "standard" and version != "8.4" else plugins)


FORMS = [
    (*form, dynamic, half)
    for form in (("standard", "full"), ("standard", "lean"), ("mmcv", "full"))
    for dynamic in (False, True)
    for half in (False, True)
]
EVERYTHING_AT_ONCE = {("standard", "lean", True, True), ("mmcv", "full", True, True)}


@pytest.mark.parametrize(
    ("flavour", "masks", "dynamic", "half"),
    [pytest.param(*form, marks=() if form in EVERYTHING_AT_ONCE else pytest.mark.slow) for form in FORMS],
)
def test_every_form_of_the_graph_is_judged(exported, flavour: str, masks: str, dynamic: bool, half: bool) -> None:
    """No operator that was not read, and nothing that would be cut or refused, whatever patches are applied."""
    options = exporter.dynamic_options(flavour) if dynamic else {}
    applied = (*options.pop("applied", exporter.CORRECT[flavour]), *(exporter.HALF if half else ()))
    model = load_onnx(exported(flavour, applied=applied, masks=masks, **options))
    for one in ops.support(model):
        assert "unknown" not in one.states.values(), one.operator
    for version in ops.VERSIONS:
        # Lean graphs of ONNX Runtime's flavour hand each level its own RoIs, in the order of whole numbers.
        if too_old := version.startswith("8.4") and (flavour, masks) == ("standard", "lean"):
            with pytest.raises(judge.GraphLimitError, match="TopK .*input 0 not of type INT32"):
                judge.check(model, version)
        else:
            assert {found.effect for found in judge.check(model, version)} <= {"note"}, version
        gaps = {"RoiAlign", "GridSample", "MMCVRoiAlign", "grid_sampler"} | ({"NonZero"} if too_old else set())
        assert set(ops.gaps(model, version)) <= gaps


def test_the_opset_is_named() -> None:
    (found,) = judge.limits(graph("Relu", [(TensorProto.FLOAT, [1])], opset=18), "8.6")
    assert (found.effect, found.value, found.node) == ("note", "18", "")
    assert "the graph" in str(found)


def test_an_operator_that_was_not_read_is_named() -> None:
    (found,) = judge.limits(graph("Einsum", [(TensorProto.FLOAT, [2, 2])], equation="ij->i"), "10")
    assert (found.effect, found.operator) == ("note", "Einsum")


def test_check_raises_for_the_worst_and_returns_notes() -> None:
    with pytest.raises(judge.GraphLimitError, match=r"10.*TopK it: K at most 3840, it has 3841.*nms_pre"):
        judge.check(top_k(3841), "10.13.0.35")
    with pytest.raises(judge.GraphLimitError, match="5000 best boxes"):
        judge.check(nms(5001), "8.4.1.5")
    assert [one.effect for one in judge.check(nms(80_000, threshold=0.05), "8.4")] == ["note"]


def test_a_release_that_was_not_read() -> None:
    with pytest.raises(ops.UnknownVersionError, match="7.2"):
        judge.limits(nms(5), "7.2")


def test_the_model_is_left_alone() -> None:
    model = nms("boxes")
    before = model.SerializeToString()
    judge.limits(model, "10", {"x0": [1, 9, 4], "x1": [1, 1, 9]})
    assert model.SerializeToString() == before
