"""Ranges of float tensors, on arrays and graphs whose ranges are known, and on the embedded model."""

from __future__ import annotations

import math
from dataclasses import replace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper, numpy_helper

matplotlib.use("Agg")

from helpers.graph import cut
from helpers.graph.cut import GraphInputError
from helpers.graph.origins import Origin
from helpers.graph.runner import RunnerError
from helpers.half_precision.ranges import (
    RangeError,
    RangeReport,
    TensorRange,
    draw_ranges,
    measure,
    range_report,
    table,
)


def graph(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], output: str = "y") -> onnx.ModelProto:
    made = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, "n"])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)


@pytest.fixture
def model() -> onnx.ModelProto:
    """x * 1000 passes 65,504 from 65.505 on; offsets are a constant made by nodes; the shape is no float."""
    nodes = [
        helper.make_node("Constant", [], ["forty"], name="forty", value_float=40000.0),
        helper.make_node("Add", ["forty", "forty"], ["offset"], name="offset"),
        helper.make_node("Mul", ["x", "thousand"], ["far"], name="far", doc_string="head.scale\nmmdet/a.py:7 scaled"),
        helper.make_node("Shape", ["far"], ["shape"], name="shape"),
        helper.make_node("Add", ["far", "offset"], ["moved"], name="moved"),
        helper.make_node("Log", ["x"], ["log"], name="log"),
        helper.make_node("Neg", ["forty"], ["apart"], name="apart"),
        helper.make_node("Add", ["moved", "log"], ["y"], name="sum"),
    ]
    return graph(nodes, {"thousand": np.full(1, 1000, np.float32), "unread": np.ones(1, np.float32)})


def feeds(*numbers: float) -> dict[str, np.ndarray]:
    return {"x": np.array(numbers, np.float32).reshape(2, -1)}


def test_every_float_tensor_has_its_row_in_graph_order(model):
    report = range_report(model, [feeds(1, 2, 0.5, 70)])
    # Constants stand before their first reader, what no node reads ("apart") at its own place; "unread" is no weight.
    assert [(row.tensor, row.operator, row.constant) for row in report.rows] == [
        ("x", "input", False),
        ("forty", "Constant", True),
        ("thousand", "initializer", True),
        ("far", "Mul", False),
        ("offset", "Add", True),
        ("moved", "Add", False),
        ("log", "Log", False),
        ("apart", "Neg", True),
        ("y", "Add", False),
    ]
    far = report["far"]
    assert (far.node, far.elements, far.minimum, far.maximum, far.smallest) == ("far", 4, 500, 70000, 500)
    assert far.headroom == pytest.approx(65504 / 70000)
    assert far.overflow_share == 0.25
    assert far.where == Origin("head.scale", ("mmdet/a.py:7 scaled",))
    assert report["thousand"].where == far.where
    deep = replace(far, where=Origin("head.scale", ("mmdet/a.py:7 scaled", "mmdet/b.py:9 forward")))
    assert str(deep) == "far: 500 to 7e+04, headroom 0.936, head.scale < mmdet/a.py:7 scaled"
    assert report["offset"].maximum == 80000
    assert [row.tensor for row in report.overflowing()] == ["far", "offset", "moved", "y"]
    with pytest.raises(RangeError, match="no float tensor 'shape'"):
        report["shape"]


def test_the_smallest_magnitude_is_held_against_the_subnormals(model):
    report = range_report(model, [feeds(1, -(2.0**-14), 2.0**-27, 0)])
    x = report["x"]
    assert (x.minimum, x.maximum, x.smallest) == (-(2.0**-14), 1, 2.0**-27)
    assert (x.normal_headroom, x.subnormal_headroom) == (2.0**-13, 2.0**-3)
    assert (x.flushed, x.flush_share) == (1, 0.25)
    assert x.headroom == 65504
    # Of the logarithms of 1, a negative number, 2^-27 and 0: 0, NaN, -18.7 and -inf.
    log = report["log"]
    assert (log.maximum, log.non_finite) == (0, 2)
    assert log.minimum == log.smallest * -1 == pytest.approx(-27 * math.log(2))


def test_pictures_are_merged_and_constants_counted_once(model):
    one, two = feeds(1, 2), feeds(0.25, 64, 66, 67)
    report = range_report(model, iter([one, two]))
    far = report["far"]
    assert report.pictures == 2
    assert (far.elements, far.minimum, far.maximum, far.smallest, far.overflowing) == (6, 250, 67000, 250, 2)
    assert report["offset"].elements == report["thousand"].elements == 1
    assert range_report(model, [two, one]).rows == report.rows


def test_a_graph_run_in_many_parts_has_the_same_ranges(model, monkeypatch):
    inputs = feeds(1, 2, 0.5, 70)
    whole = range_report(model, [inputs])
    monkeypatch.setattr(cut, "_PART_BYTES", 1)
    assert range_report(model, [inputs]) == whole


def test_the_worst_come_first(model):
    report = range_report(model, [feeds(1, 2, 0, 2.0**-26)])
    # log holds an inf, and y with it: the one where it began is the first, although y's finite numbers are larger.
    order = ["log", "y", "moved", "offset", "forty", "apart", "far", "thousand", "x"]
    assert [row.tensor for row in report.worst()] == order
    assert [row.tensor for row in report.worst(2, by="underflow")] == ["x", "far"]
    text = str(report)
    assert text.splitlines()[0].endswith(
        "3 pass 65,504, 1 hold numbers that become 0, 2 are not finite in FP32 already"
    )
    columns = table(report.worst(2))
    assert columns["tensor"] == ["log", "y"]
    assert columns["not finite"] == [1, 1]
    assert {len(column) for column in columns.values()} == {2}


any_float = st.one_of(
    st.floats(width=32),
    st.floats(-(2.0**-22), 2.0**-22, width=32),
    st.floats(65472, 65536, width=32),
    st.sampled_from([0.0, -0.0, math.inf, math.nan, 2.0**-25, 2.0**-24, 65504.0]),
)


@settings(max_examples=200)
@given(
    arrays.arrays(np.float32, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5), elements=any_float)
)
def test_the_measures_are_what_numpy_computes_naively(array):
    found = measure(array)
    finite = array[np.isfinite(array)].astype(np.float64)
    nonzero = np.abs(finite[finite != 0])
    assert found["elements"] == array.size
    assert found["non_finite"] == array.size - finite.size
    expected = (finite.min(), finite.max()) if finite.size else (math.nan, math.nan)
    np.testing.assert_array_equal((found["minimum"], found["maximum"]), expected)
    np.testing.assert_array_equal(found["smallest"], nonzero.min() if nonzero.size else math.nan)
    assert found["overflowing"] == (np.abs(finite) > np.finfo(np.float16).max).sum()
    with np.errstate(over="ignore"):
        assert found["flushed"] == ((finite != 0) & (finite.astype(np.float16) == 0)).sum()


def test_large_arrays_and_other_float_types_are_measured_whole():
    array = np.zeros(3_000_001, np.float32)
    array[[5, 6, 1_500_000, 3_000_000]] = 3e-8, np.nan, np.inf, -70000
    assert measure(array) == {
        "elements": 3_000_001,
        "minimum": -70000,
        "maximum": float(np.float32(3e-8)),
        "smallest": float(np.float32(3e-8)),
        "overflowing": 1,
        "flushed": 0,
        "non_finite": 2,
    }
    assert measure(np.array([1e-9, -1e9]))["flushed"] == 1
    assert measure(np.array([6e-8, 65504], np.float16))["smallest"] == 2.0**-24
    assert measure(np.ones((4, 6), np.float32)[:, ::2].T)["elements"] == 12


def test_a_tensor_without_numbers_is_no_worst(model):
    report = range_report(model, [feeds()])
    assert report["far"].elements == 0
    assert math.isnan(report["far"].largest)
    assert report["far"].overflow_share == 0
    assert report.worst(1)[0].tensor == "offset"
    both = report["x"].merged(range_report(model, [feeds(1, 2)])["x"])
    assert (both.minimum, both.maximum, both.smallest) == (1, 2, 1)


def test_the_picture_shows_each_span_and_colours_what_passes_the_limit(model):
    report = range_report(model, [feeds(1, 2, 0, 70)])
    figure, axis = plt.subplots()
    draw_ranges(report, axis)
    of_colour = {
        matplotlib.colors.to_hex(bars.get_color()[0]): [segment[:, 1].tolist() for segment in bars.get_segments()]
        for bars in axis.collections
    }
    # The 0 of x is no magnitude of x and far, but makes 80,000 + 0 the smallest of moved; of y it is inf.
    y = [80000 + 1000, 80000 + 70000 + np.log(70)]
    assert of_colour["#d62728"] == [[1000, 70000], [80000, 80000], [80000, 80000 + 70000], pytest.approx(y)]
    assert of_colour["#8c8c8c"] == [[40000, 40000], [1000, 1000], [40000, 40000]]
    assert of_colour["#4c72b0"][0] == [1, 70]
    heights = {line.get_ydata()[0] for line in axis.lines if len(line.get_ydata()) and len(line.get_xdata()) == 2}
    assert {65504.0, 2.0**-14, 2.0**-24} <= heights
    assert any("far (scaled), up to 70,000" in text.get_text() for text in axis.texts)
    assert "9 float tensors" in axis.get_title()
    plt.close(figure)


@pytest.mark.parametrize("size", [(12, 6), (7, 4)])
def test_no_name_in_the_picture_lies_on_another_or_on_a_bar(size):
    parts = ["backbone"] * 60 + ["neck"] * 4 + ["rpn_head"] * 5 + [""] * 30 + ["roi_head"] + ["mask_head"] * 5
    peaks = {2: 1e5, 20: 9e4, 97: 2e5, 100: 8e4}
    rows = []
    for i, part in enumerate(parts):
        peak = peaks.get(i, 300.0)
        where = Origin(part, (f"mmdet/a.py:{i} function_{i}",))
        bad = 1 if i == 40 else 0
        rows.append(
            TensorRange(f"/part/Mul_{i}", "", "Mul", where, False, 9, -1, peak, 1e-12, int(peak > 65504), 1, bad)
        )
    figure, axis = plt.subplots(figsize=size)
    draw_ranges(RangeReport(tuple(rows), 1), axis)
    figure.canvas.draw()
    worst = {text.get_text(): text for text in axis.texts if "up to" in text.get_text()}
    assert len(worst) == 4
    assert "/part/Mul_2 (function_2), up to 100,000" in worst
    # neck and rpn_head fit upright, roi_head's one tensor has no room for a name at all.
    named = [text for text in axis.texts if "up to" not in text.get_text()]
    assert [text.get_text() for text in named] == ["backbone", "neck", "rpn_head", "(no module)", "mask_head"]
    # An annotation's own window also holds its line to the bar: ask for the text alone.
    boxes = [matplotlib.text.Text.get_window_extent(text) for text in axis.texts]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
    pixels = axis.transData.transform([(0, 2e5), (0, 1e-12)])[:, 1]
    cross = axis.transData.transform(next(line.get_xydata() for line in axis.lines if line.get_marker() == "x"))[0, 1]
    frame = axis.get_window_extent()
    for text in axis.texts:
        box = matplotlib.text.Text.get_window_extent(text)
        if text in named:
            assert frame.y0 <= box.y0
            assert box.y1 < pixels[1]
        else:
            assert box.y1 <= frame.y1
            # A cross is 6 points high: half of it, and as much between it and the name.
            assert box.y0 > max(pixels[0], cross + 6 * figure.dpi / 72)
    # So no line from a name to its bar passes another name: the bar nearer to the border has the higher name.
    height = {text.xy[0]: text.xyann[1] for text in worst.values()}
    assert height[2] > height[20]
    assert height[100] > height[97]
    plt.close(figure)


def test_bad_input_is_named(model):
    with pytest.raises(RangeError, match="no picture"):
        range_report(model, [])
    with pytest.raises(GraphInputError, match="takes an input 'x', and the feeds have picture"):
        range_report(model, [{"picture": np.zeros((2, 1), np.float32)}])
    for wrong in (np.zeros((2, 1)), np.zeros((3, 1), np.float32), np.zeros(2, np.float32)):
        with pytest.raises(GraphInputError, match="takes float32"):
            range_report(model, [{"x": wrong}])
    nameless = graph([helper.make_node("Relu", ["x"], [""], name="lost")], {}, output="x")
    with pytest.raises(RangeError, match=r"node 0 \(lost\) has no name"):
        range_report(nameless, [feeds(1, 2)])
    integers = graph([helper.make_node("Cast", ["x"], ["y"], to=TensorProto.INT64)], {})
    integers.graph.input[0].type.tensor_type.elem_type = TensorProto.INT32
    with pytest.raises(RangeError, match="no float tensors"):
        range_report(integers, [{"x": np.zeros((2, 2), np.int32)}])
    # The declared width is dynamic and takes 3 numbers; that they cannot be added to 2 is seen when the part is loaded.
    fixed_width = graph([helper.make_node("Add", ["x", "w"], ["y"], name="add")], {"w": np.zeros(2, np.float32)})
    with pytest.raises(
        RunnerError, match=r"cannot load the graph in memory .*\(add\).*: export it again for the input"
    ):
        range_report(fixed_width, [feeds(1, 2, 3, 4, 5, 6)])
    # What depends on the numbers is seen only in the run.
    indexed = graph(
        [
            helper.make_node("Cast", ["x"], ["index"], to=TensorProto.INT64),
            helper.make_node("Gather", ["w", "index"], ["y"], name="pick"),
        ],
        {"w": np.zeros(2, np.float32)},
    )
    assert range_report(indexed, [feeds(0, 1)])["y"].elements == 2
    with pytest.raises(RunnerError, match="stopped inside the graph .*pick.*: check the input"):
        range_report(indexed, [feeds(0, 2)])
