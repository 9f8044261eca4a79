"""The host library (the arithmetic that the CUDA kernels share) against mmcv, PyTorch and ONNX Runtime."""

from __future__ import annotations

import functools
import subprocess
import sys
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from helpers.compat import ensure_torchvision
from helpers.operators import library as plugins
from helpers.paths import build_root

ensure_torchvision()
from mmcv.ops import roi_align as mmcv_roi_align  # noqa: E402

few = settings(max_examples=60)
seeds = st.integers(0, 2**31)
flags = st.booleans()


def run_onnx(operator: str, inputs: dict[str, np.ndarray], opset: int = 16, **attributes: Any) -> np.ndarray:
    """One node in ONNX Runtime."""
    kinds = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "int32": TensorProto.INT32}
    kinds |= {"int64": TensorProto.INT64, "float64": TensorProto.DOUBLE}
    node = helper.make_node(operator, list(inputs), ["out"], **attributes)
    values = [helper.make_tensor_value_info(n, kinds[a.dtype.name], [None] * a.ndim) for n, a in inputs.items()]
    out_kind = TensorProto.INT64 if operator == "NonMaxSuppression" else values[0].type.tensor_type.elem_type
    graph = helper.make_graph([node], "one", values, [helper.make_tensor_value_info("out", out_kind, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return session.run(None, inputs)[0]


# --- RoIAlign -------------------------------------------------------------------------------------------------------


def random_rois(rng: np.random.Generator, count: int, batch: int, extent: float) -> np.ndarray:
    """RoIs inside, across the border, outside, and without area."""
    corner = rng.uniform(-0.5 * extent, 1.2 * extent, (count, 2))
    size = rng.uniform(0, extent, (count, 2)) * rng.integers(0, 2, (count, 1))
    index = rng.integers(0, batch, (count, 1)) if count else np.zeros((0, 1))
    return np.concatenate([index, corner, corner + size], 1).astype(np.float32)


@few
@given(
    seed=seeds,
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    count=st.integers(0, 6),
    bins=st.tuples(st.sampled_from([1, 2, 7]), st.sampled_from([1, 3, 7, 14])),
    ratio=st.integers(0, 3),
    mode=st.sampled_from(["avg", "max"]),
    aligned=flags,
    stride=st.sampled_from([1, 4, 16]),
)
def test_roi_align_equals_mmcv(seed, size, count, bins, ratio, mode, aligned, stride):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(2, 3, *size)).astype(np.float32)
    rois = random_rois(rng, count, 2, 20 * stride)
    ours = plugins.roi_align(features, rois, bins, 1 / stride, sampling_ratio=ratio, mode=mode, aligned=aligned)
    theirs = mmcv_roi_align(torch.from_numpy(features), torch.from_numpy(rois), bins, 1 / stride, ratio, mode, aligned)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=2e-5)


@few
@given(seed=seeds, bins=st.sampled_from([3, 7, 40]), ratio=st.sampled_from([0, 2, 60]), aligned=flags)
@example(seed=0, bins=1, ratio=0, aligned=True)  # one bin of 60 pixels needs more taps than the fast path holds
def test_both_ways_to_the_mean_agree_with_mmcv(seed, bins, ratio, aligned):
    """Large bins, many samples and many bins leave the fast path; the answer must not show it."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(1, 1, 61, 64)).astype(np.float32)
    rois = np.array([[0, 0, 0, 60, 60], [0, 10, 3, 63, 55], [0, 1, 1, 9, 9]], np.float32)
    ours = plugins.roi_align(features, rois, (bins, bins), 1.0, sampling_ratio=ratio, aligned=aligned)
    theirs = mmcv_roi_align(*map(torch.from_numpy, (features, rois)), (bins, bins), 1.0, ratio, "avg", aligned)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=2e-5)


@few
@given(seed=seeds, ratio=st.integers(0, 3), size=st.tuples(st.integers(1, 12), st.integers(1, 12)))
def test_roi_align_equals_onnx_runtime(seed, ratio, size):
    """In ONNX Runtime aligned RoIs are called half_pixel. (Its maximum is another one: not compared.)"""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(2, 2, *size)).astype(np.float32)
    rois = random_rois(rng, 4, 2, 40)
    inputs = {"x": features, "rois": rois[:, 1:].copy(), "batch": rois[:, 0].astype(np.int64)}
    for aligned, name in ((True, "half_pixel"), (False, "output_half_pixel")):
        theirs = run_onnx(
            "RoiAlign", inputs, output_height=3, output_width=5, sampling_ratio=ratio, spatial_scale=0.25,
            coordinate_transformation_mode=name,
        )  # fmt: skip
        ours = plugins.roi_align(features, rois, (3, 5), 0.25, sampling_ratio=ratio, aligned=aligned)
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5)


def test_roi_align_by_hand():
    """A 2x2 map, one RoI over it, one sample in the middle of the four pixels: their mean; then on one pixel."""
    features = np.array([[[[1, 2], [3, 6]]]], np.float32)
    options: dict[str, Any] = {"spatial_scale": 1.0, "sampling_ratio": 1}
    whole = np.array([[0, 0, 0, 2, 2]], np.float32)
    assert plugins.roi_align(features, whole, (1, 1), **options, aligned=True).item() == 3.0
    assert plugins.roi_align(features, whole, (1, 1), **options, aligned=False).item() == 6.0
    assert plugins.roi_align(features, whole, (2, 2), **options, aligned=True).ravel().tolist() == [1, 2, 3, 6]


def test_a_constant_map_stays_constant():
    features = np.full((1, 2, 30, 30), 5.0, np.float32)
    rois = np.array([[0, 8, 8, 80, 90], [0, 40, 40, 41, 41]], np.float32)
    for ratio in (0, 2):
        np.testing.assert_allclose(
            plugins.roi_align(features, rois, (7, 7), 0.25, sampling_ratio=ratio), 5.0, rtol=1e-6
        )


@pytest.mark.parametrize(
    "roi",
    [
        [-1, 0, 0, 9, 9], [2, 0, 0, 9, 9], [np.nan, 0, 0, 9, 9], [1e20, 0, 0, 9, 9],  # no such picture
        [0, np.nan, 0, 9, 9], [0, 0, -np.inf, 9, 9], [0, 0, 0, np.inf, 9], [0, -np.inf, -np.inf, np.inf, np.inf],
        [0, 900, 900, 950, 950], [0, -90, -90, -50, -50],  # outside
    ],
)  # fmt: skip
@pytest.mark.parametrize("ratio", [0, 2])
def test_rois_without_an_answer_give_zero(roi, ratio):
    features = np.ones((2, 2, 10, 12), np.float32)
    result = plugins.roi_align(features, np.array([roi], np.float32), (3, 3), 1.0, sampling_ratio=ratio)
    assert (result == 0).all()


def test_a_roi_without_area_has_as_many_samples_as_it_is_told():
    """Adaptive sampling takes none, so 0; a fixed number samples the point."""
    features, point = np.ones((1, 2, 10, 12), np.float32), np.array([[0, 5, 5, 5, 5]], np.float32)
    for ratio in (0, 2):
        result = plugins.roi_align(features, point, (3, 3), 1.0, sampling_ratio=ratio)
        assert (result == (1 if ratio else 0)).all()


def test_an_absurdly_large_roi_ends():
    """mmcv would take 1.4e8 samples an axis a bin."""
    features = np.ones((1, 1, 10, 12), np.float32)
    result = plugins.roi_align(features, np.array([[0, 0, 0, 1e9, 1e9]], np.float32), (7, 7), 1.0)
    assert np.isfinite(result).all()


def test_double_is_a_reference_for_float():
    rng = np.random.default_rng(1)
    features, rois = rng.normal(size=(1, 2, 30, 40)), random_rois(rng, 20, 1, 30).astype(np.float64)
    exact = plugins.roi_align(features, rois, (7, 7), 0.5)
    rounded = plugins.roi_align(features.astype(np.float32), rois.astype(np.float32), (7, 7), 0.5)
    assert exact.dtype == np.float64
    assert 0 < np.abs(exact - rounded).max() < 1e-4


# --- MultiLevelRoIAlign ---------------------------------------------------------------------------------------------

STRIDES = (4, 8, 16, 32)


@few
@given(seed=seeds, bins=st.sampled_from([1, 7]), batch=st.integers(1, 2), count=st.integers(0, 8))
def test_multi_level_roi_align_equals_mmdet(seed, bins, batch, count):
    from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor

    rng = np.random.default_rng(seed)
    features = [rng.normal(size=(batch, 3, 256 // s, 320 // s)).astype(np.float32) for s in STRIDES]
    side = 2 ** rng.uniform(1, 10, (count, 1))
    corner = rng.uniform(-20, 300, (count, 2))
    index = rng.integers(0, batch, (count, 1)) if count else np.zeros((0, 1))
    rois = np.concatenate([index, corner, corner + side * rng.uniform(0.5, 2, (count, 2))], 1).astype(np.float32)
    layer = {"type": "RoIAlign", "output_size": bins, "sampling_ratio": 0}
    extractor = SingleRoIExtractor(layer, out_channels=3, featmap_strides=list(STRIDES))
    with torch.no_grad():
        theirs = extractor([torch.from_numpy(f) for f in features], torch.from_numpy(rois)).numpy()
    ours = plugins.multi_level_roi_align(features, rois, (bins, bins), STRIDES)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5)


def test_the_level_of_a_roi():
    """On maps that hold their level's number, the output is the level: doubling the side moves up one."""
    features = [np.full((1, 1, 512 // s, 512 // s), level, np.float32) for level, s in enumerate(STRIDES)]
    sides = [1, 55, 56, 111.9, 112, 223.9, 224, 447.9, 448, 500]
    rois = np.array([[0, 3, 3, 3 + side, 3 + side] for side in sides], np.float32)
    result = plugins.multi_level_roi_align(features, rois, (1, 1), STRIDES)
    assert np.round(result.ravel()).tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 3, 3]


def test_a_roi_of_negative_area_has_no_level():
    features = [np.ones((1, 1, 64 // s, 64 // s), np.float32) for s in STRIDES]
    rois = np.array([[0, 20, 3, 3, 20], [0, np.nan, 3, 9, 9]], np.float32)
    assert (plugins.multi_level_roi_align(features, rois, (2, 2), STRIDES) == 0).all()


# --- grid_sampler ---------------------------------------------------------------------------------------------------

INTERPOLATIONS = ["bilinear", "nearest", "bicubic"]
PADDINGS = ["zeros", "border", "reflection"]


def torch_grid_sample(
    values: np.ndarray, grid: np.ndarray, interpolation: str, padding: str, align: bool
) -> np.ndarray:
    result = torch.nn.functional.grid_sample(*map(torch.from_numpy, (values, grid)), interpolation, padding, align)
    return result.numpy()


@settings(max_examples=120)
@given(
    seed=seeds,
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    out=st.tuples(st.integers(0, 5), st.integers(1, 7)),
    batch=st.integers(0, 2),
    interpolation=st.sampled_from(INTERPOLATIONS),
    padding=st.sampled_from(PADDINGS),
    align=flags,
    spread=st.sampled_from([1.0, 1.5, 6.0]),
)
def test_grid_sampler_equals_torch(seed, size, out, batch, interpolation, padding, align, spread):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(batch, 3, *size))
    grid = rng.uniform(-spread, spread, (batch, *out, 2))
    ours = plugins.grid_sampler(values, grid, interpolation=interpolation, padding=padding, align_corners=align)
    assume(batch > 0 and out[0] > 0)  # torch refuses what is empty
    theirs = torch_grid_sample(values, grid, interpolation, padding, align)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)
    single = plugins.grid_sampler(
        values.astype(np.float32), grid.astype(np.float32), interpolation=interpolation, padding=padding,
        align_corners=align,
    )  # fmt: skip
    if interpolation != "nearest":  # where rounding the grid to float may pick the other pixel
        np.testing.assert_allclose(single, theirs, rtol=1e-3, atol=2e-4)


@few
@given(seed=seeds, interpolation=st.sampled_from(INTERPOLATIONS), padding=st.sampled_from(PADDINGS), align=flags)
def test_grid_sampler_equals_onnx_runtime(seed, interpolation, padding, align):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(2, 2, 5, 6)).astype(np.float32)
    grid = rng.uniform(-1.4, 1.4, (2, 3, 4, 2)).astype(np.float32)
    theirs = run_onnx(
        "GridSample", {"x": values, "grid": grid}, mode=interpolation, padding_mode=padding, align_corners=int(align)
    )
    ours = plugins.grid_sampler(values, grid, interpolation=interpolation, padding=padding, align_corners=align)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("padding", PADDINGS)
def test_grid_points_that_are_no_numbers(interpolation, padding):
    """Zero padding gives 0, the others pixel 0 for NaN, bicubic NaN. PyTorch agrees where its answer is defined."""
    values = np.arange(1, 13, dtype=np.float32).reshape(1, 1, 3, 4)
    grid = np.array([[[[np.nan, 0.0], [np.inf, 0.0], [-np.inf, 0.0], [0.0, np.nan]]]], np.float32)
    ours = plugins.grid_sampler(values, grid, interpolation=interpolation, padding=padding, align_corners=True).ravel()
    if interpolation == "bicubic":
        assert np.isnan(ours).all()
    elif padding == "zeros":
        assert (ours == 0).all()
        # PyTorch's vectorised bilinear kernel answers NaN here, its nearest one 0.
    else:
        assert ours[0] == 5  # row 1, column 0
        assert ours[3] == pytest.approx(2.5 if interpolation == "bilinear" else 3)  # row 0, the middle
    if interpolation != "bicubic" and padding == "border":
        np.testing.assert_array_equal(ours, torch_grid_sample(values, grid, interpolation, padding, True).ravel())


def test_half_way_between_pixels_goes_to_the_even_one():
    values = np.array([[[[10, 11, 12, 13, 14]]]], np.float32)
    grid = np.stack([np.array([-0.75, -0.25, 0.25, 0.75]), np.zeros(4)], -1)[None, None].astype(np.float32)
    ours = plugins.grid_sampler(values, grid, interpolation="nearest", align_corners=True)
    assert ours.ravel().tolist() == [10, 12, 12, 14]
    np.testing.assert_array_equal(ours, torch_grid_sample(values, grid, "nearest", "zeros", True))


def test_pasting_a_mask():
    """The use in this model: a 28x28 mask pasted at a box; outside the box zero, inside the mask's own values."""
    mask = np.random.default_rng(0).uniform(size=(1, 1, 28, 28)).astype(np.float32)
    x = (np.arange(60) + 0.5 - 10) / 28 * 2 - 1  # a box of 28 pixels from column 10 and row 5
    y = (np.arange(50) + 0.5 - 5) / 28 * 2 - 1
    grid = np.stack(np.broadcast_arrays(x[None], y[:, None]), -1)[None].astype(np.float32)
    pasted = plugins.grid_sampler(mask, grid)[0, 0]
    np.testing.assert_allclose(pasted[5:33, 10:38], mask[0, 0], atol=1e-5)
    pasted[5:33, 10:38] = 0
    assert np.abs(pasted).max() < 1e-5


# --- NonMaxSuppression ----------------------------------------------------------------------------------------------


@settings(max_examples=150)
@given(
    seed=seeds,
    batch=st.integers(1, 2),
    classes=st.integers(1, 3),
    count=st.sampled_from([1, 2, 7, 30]),
    limit=st.sampled_from([0, 1, 4, 100]),
    iou=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    threshold=st.sampled_from([None, 0.0, 0.3, 2.0]),
    center=flags,
    integers=flags,
)
def test_non_max_suppression_equals_onnx_runtime(seed, batch, classes, count, limit, iou, threshold, center, integers):
    """Coarse scores and coordinates make ties, equal boxes, empty boxes and overlaps at the threshold itself."""
    rng = np.random.default_rng(seed)
    boxes = rng.uniform(-5, 15, (batch, count, 4))
    boxes = (np.round(boxes / 5) * 5 if integers else boxes).astype(np.float32)
    scores = (np.round(rng.uniform(0, 1, (batch, classes, count)) * 6) / 6).astype(np.float32)
    inputs = {
        "boxes": boxes,
        "scores": scores,
        "limit": np.array([limit], np.int64),
        "iou": np.array([iou], np.float32),
    }
    if threshold is not None:
        inputs["threshold"] = np.array([threshold], np.float32)
    theirs = run_onnx("NonMaxSuppression", inputs, center_point_box=int(center))
    ours = plugins.non_max_suppression(boxes, scores, limit, iou, threshold, center_point_box=center)
    np.testing.assert_array_equal(ours, theirs)


def test_an_overlap_equal_to_the_threshold_does_not_suppress():
    boxes = np.array([[[0, 0, 10, 10], [0, 0, 10, 5]]], np.float32)  # overlap exactly one half
    scores = np.array([[[0.9, 0.8]]], np.float32)
    assert len(plugins.non_max_suppression(boxes, scores, 10, 0.5)) == 2
    assert len(plugins.non_max_suppression(boxes, scores, 10, 0.4999)) == 1


def test_equal_scores_are_visited_by_index():
    boxes = np.array([[[0, 0, 10, 10], [0, 1, 10, 11], [50, 50, 60, 60], [0, 0, 10, 10]]], np.float32)
    scores = np.array([[[0.5, 0.5, 0.5, 0.5]]], np.float32)
    assert plugins.non_max_suppression(boxes, scores, 10, 0.5).tolist() == [[0, 0, 0], [0, 0, 2]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_boxes_that_are_no_numbers_suppress_nothing(bad):
    boxes = np.array([[[bad, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, bad]]], np.float32)
    scores = np.array([[[0.9, 0.8, 0.7]]], np.float32)
    assert len(plugins.non_max_suppression(boxes, scores, 10, 0.5)) == 3


def test_a_score_that_is_no_number_is_no_candidate():
    boxes = np.array([[[0, 0, 10, 10], [30, 30, 40, 40]]], np.float32)
    scores = np.array([[[np.nan, 0.5]]], np.float32)
    for threshold in (None, 0.1):
        assert plugins.non_max_suppression(boxes, scores, 10, 0.5, threshold).tolist() == [[0, 0, 1]]


def test_the_legacy_offset_makes_boxes_one_pixel_larger():
    boxes = np.array([[[0, 0, 9, 9], [0, 9, 9, 18]]], np.float32)  # share one column of pixels in the legacy reading
    scores = np.array([[[0.9, 0.8]]], np.float32)
    assert len(plugins.non_max_suppression(boxes, scores, 10, 0.04, offset=0)) == 2
    assert len(plugins.non_max_suppression(boxes, scores, 10, 0.04, offset=1)) == 1


# --- ScatterND ------------------------------------------------------------------------------------------------------


@few
@given(
    seed=seeds,
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    depth=st.integers(1, 4),
    rows=st.integers(0, 4),
    kind=st.sampled_from(["float32", "float16", "int32", "float64", "int64"]),
)
def test_scatter_nd_equals_onnx_runtime(seed, shape, depth, rows, kind):
    depth = min(depth, len(shape))
    rng = np.random.default_rng(seed)
    data = (rng.normal(size=shape) * 100).astype(kind)
    addressed = shape[:depth]
    rows = min(rows, int(np.prod(addressed)))
    flat = rng.permutation(int(np.prod(addressed)))[:rows]  # distinct, as the standard asks
    indices = np.stack(np.unravel_index(flat, addressed), -1).astype(np.int64).reshape(rows, depth)
    indices -= np.array(addressed) * rng.integers(0, 2, indices.shape)  # half of them counted from the end
    updates = (rng.normal(size=(rows, *shape[depth:])) * 100).astype(kind)
    inputs = {"data": data, "indices": indices, "updates": updates}
    ours = plugins.scatter_nd(data, indices, updates)
    np.testing.assert_array_equal(ours, run_onnx("ScatterND", inputs))
    np.testing.assert_array_equal(ours, plugins.scatter_nd(data, indices.astype(np.int32), updates))


def test_the_last_of_equal_indices_wins():
    result = plugins.scatter_nd(np.zeros(3, np.float32), np.array([[1], [1]]), np.array([5, 7], np.float32))
    assert result.tolist() == [0, 7, 0]


@pytest.mark.parametrize("index", [3, -4, 2**40])
def test_scatter_nd_refuses_an_index_out_of_range(index):
    with pytest.raises(plugins.BadOperatorInput, match="ScatterND got an index outside the data"):
        plugins.scatter_nd(np.zeros(3, np.float32), np.array([[index]]), np.ones(1, np.float32))


# --- wrong calls ----------------------------------------------------------------------------------------------------

x4 = np.zeros((1, 2, 5, 5), np.float32)
roi = np.zeros((1, 5), np.float32)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: plugins.roi_align(x4, roi.astype(np.float64), (7, 7), 1),
            "MMCVRoiAlign got features float32, rois float64",
        ),
        (lambda: plugins.roi_align(x4, roi[:, :4], (7, 7), 1), r"rois of shape \(1, 4\)"),
        (lambda: plugins.roi_align(x4[0], roi, (7, 7), 1), r"features of shape \(2, 5, 5\)"),
        (lambda: plugins.roi_align(x4, roi, (0, 7), 1), "MMCVRoiAlign got output height 0"),
        (lambda: plugins.roi_align(x4, roi, (7, -7), 1), "MMCVRoiAlign got output width -7"),
        (lambda: plugins.roi_align(x4, roi, (5000, 5000), 1), "MMCVRoiAlign got output width 5000"),
        (lambda: plugins.roi_align(x4, roi, (7.5, 7), 1), "output height 7.5"),  # type: ignore[arg-type]
        (lambda: plugins.roi_align(x4, roi, 7, 1), "output height 0"),  # type: ignore[arg-type]
        (lambda: plugins.roi_align(x4, roi, (7, 7), 1, sampling_ratio=-1), "MMCVRoiAlign got sampling_ratio -1"),
        (lambda: plugins.roi_align(x4, roi, (7, 7), 1, sampling_ratio=2**32), "sampling_ratio 4294967296"),
        (lambda: plugins.roi_align(x4, roi, (7, 7), 0), "MMCVRoiAlign got spatial_scale 0"),
        (lambda: plugins.roi_align(x4, roi, (7, 7), float("nan")), "MMCVRoiAlign got spatial_scale nan"),
        (lambda: plugins.roi_align(x4, roi, (7, 7), 1, mode="median"), "knows no mode 'median'"),  # type: ignore[arg-type]
        (lambda: plugins.multi_level_roi_align([x4], roi, (7, 7), (4, 8)), "1 levels and 2 strides"),
        (lambda: plugins.multi_level_roi_align([], roi, (7, 7), ()), "0 levels"),
        (lambda: plugins.multi_level_roi_align([x4, x4[:, :1]], roi, (7, 7), (4, 8)), r"features\[1\] of shape"),
        (lambda: plugins.multi_level_roi_align([x4, x4[:0]], roi, (7, 7), (4, 8)), r"features\[1\] of shape"),
        (lambda: plugins.multi_level_roi_align([x4[0, 0, 0]], roi, (7, 7), (4,)), r"features\[0\] of shape \(5,\)"),
        (lambda: plugins.multi_level_roi_align([x4], roi[:, :4], (7, 7), (4,)), r"rois of shape \(1, 4\)"),
        (lambda: plugins.multi_level_roi_align([x4], roi.astype(float), (7, 7), (4,)), "rois float64, .* float32"),
        (lambda: plugins.multi_level_roi_align([x4], roi, (7, 7), (0,)), "MultiLevelRoIAlign got stride 0"),
        (lambda: plugins.multi_level_roi_align([x4], roi, (7, 7), (4,), finest_scale=-1), "finest_scale -1"),
        (lambda: plugins.grid_sampler(x4[None], x4, interpolation="bilinear"), r"grid_sampler got a volume \(5-D\)"),
        (lambda: plugins.grid_sampler(x4, x4), r"grid of shape \(1, 2, 5, 5\)"),
        (lambda: plugins.grid_sampler(x4, np.zeros((2, 3, 3, 2), np.float32)), r"grid of shape \(2, 3, 3, 2\)"),
        (lambda: plugins.grid_sampler(x4, np.zeros((1, 3, 3, 2), np.float32), padding="wrap"), "no padding 'wrap'"),
        (lambda: plugins.non_max_suppression(roi[None], roi[None], 1, 0.5), r"boxes of shape \(1, 1, 5\)"),
        (lambda: plugins.non_max_suppression(x4[0, :, :, :4], x4[0, :1], 1, 0.5), r"scores of shape"),
        (lambda: plugins.non_max_suppression(x4[:, 0, :, :4], x4[:, 0, :1], 1, 1.5), "iou_threshold 1.5"),
        (lambda: plugins.scatter_nd(x4, np.zeros((1, 5), np.int64), x4), r"indices int64 of shape \(1, 5\)"),
        (lambda: plugins.scatter_nd(x4, np.zeros((1, 1), np.int64), roi), r"updates of shape \(1, 5\)"),
        (lambda: plugins.scatter_nd(x4, np.zeros((1, 1), np.int64), roi.astype(int)), "data float32 and updates int64"),
    ],
)
def test_a_wrong_call_names_the_operator(call, words):
    with pytest.raises(plugins.BadOperatorInput, match=words):
        call()


def test_an_empty_picture_is_no_problem():
    assert plugins.roi_align(x4, roi[:0], (7, 7), 1).shape == (0, 2, 7, 7)
    assert plugins.grid_sampler(x4[:0], np.zeros((0, 3, 4, 2), np.float32)).shape == (0, 2, 3, 4)
    assert plugins.non_max_suppression(np.zeros((1, 0, 4), np.float32), np.zeros((1, 2, 0), np.float32), 5).shape == (
        0,
        3,
    )


# --- building -------------------------------------------------------------------------------------------------------


def test_without_a_compiler_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_BUILD", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(plugins.PluginBuildError, match=r"no C\+\+ compiler was found: install one"):
        plugins.build_host_library()


def test_a_failing_compiler_is_quoted_and_leaves_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_BUILD", str(tmp_path))
    monkeypatch.setenv("CXXFLAGS", "--no-such-option")
    with pytest.raises(plugins.PluginBuildError, match="no-such-option"):
        plugins.build_host_library()
    assert not list((tmp_path / "plugins").glob("*.so"))


def test_without_cmake_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_BUILD", str(tmp_path))
    monkeypatch.setenv("CXX", sys.executable)  # found, and not called
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(plugins.PluginBuildError, match="cmake was not found: install it"):
        plugins.build_host_library()


def test_a_damaged_library_is_named(tmp_path):
    damaged = tmp_path / "libdamaged.so"
    damaged.write_bytes(b"\x7fELF, cut short")
    with pytest.raises(plugins.PluginBuildError, match=r"libdamaged\.so cannot be loaded"):
        plugins.load_library(damaged, "host")
    with pytest.raises(plugins.PluginBuildError, match="cannot be loaded"):
        plugins.load_library(tmp_path / "libmissing.so", "host")


def test_a_library_without_the_functions_is_named():
    with pytest.raises(plugins.PluginBuildError, match="course_roi_align_cuda"):
        plugins.load_library(plugins.build_host_library(), "cuda")


@functools.cache
def sanitizers_work() -> bool:
    compiler = plugins.find_cxx()
    if compiler is None:
        return False
    program = build_root() / "plugins" / "sanitizer_probe"
    program.parent.mkdir(parents=True, exist_ok=True)
    command = [compiler, "-fsanitize=address,undefined", "-x", "c++", "-", "-o", str(program)]
    return subprocess.run(command, input=b"int main() {}", capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not sanitizers_work(), reason="this compiler has no AddressSanitizer")
def test_no_operator_touches_memory_outside_its_buffers():
    """plugins/tests/edge_cases.cpp, every buffer at its exact size, under AddressSanitizer and UBSan."""
    options = {"CMAKE_CXX_FLAGS_RELEASE": "-O1 -g", "CMAKE_COMPILE_WARNING_AS_ERROR": "ON"}
    program = plugins.build("edge_cases", COURSE_SANITIZE="ON", **options)
    done = subprocess.run([program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert "all as expected" in done.stdout


@pytest.mark.skipif(plugins.find_nvcc() is None, reason="no nvcc")
def test_the_kernels_compile_without_a_warning():
    library = plugins.load_library(plugins.build_cuda_library("sm_90"), "cuda")
    assert library.course_non_max_suppression_workspace(1, 2, 100, 10) == 2 * (100 + 10 + 2) * 4
