"""The patches that keep half precision finite: their small functions by brute force, and the graphs they export."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

import patches
from helpers.compare.parity import compare
from helpers.compat import ensure_torchvision
from helpers.export import exporter as export
from helpers.graph import detect
from helpers.graph.detect import detect_batch, detect_prepared
from helpers.graph.file import load_onnx
from helpers.graph.onnx_runtime import OnnxRunner, open_session
from helpers.half_precision.simulation import hunt, round_results

ensure_torchvision()
from patches.p30_nms_by_class import nms_by_class  # noqa: E402
from patches.p31_rpn_levels_by_row import row_of_each_level  # noqa: E402

ROIS, CLASSES, KEPT = 12, 5, 8
HEAD = (*export.NEEDED["standard"], "p30_nms_by_class", "p32_select_instead_of_multiply")


def greedy_nms(boxes: np.ndarray, scores: np.ndarray, threshold: float, floor: float) -> list[int]:
    """Indices that survive, best first: the definition, box by box."""
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        if scores[i] <= floor:
            break
        if all(iou(boxes[i], boxes[j]) <= threshold for j in kept):
            kept.append(int(i))
    return kept


def iou(a: np.ndarray, b: np.ndarray) -> float:
    width, height = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return float(shared / (sum(areas) - shared))


def exported(function: Callable[..., object], inputs: dict[str, torch.Tensor], path, names) -> onnx.ModelProto:
    class Call(torch.nn.Module):
        def forward(self, *tensors):
            return function(*tensors)

    with patches.applied(*names), export.quiet_exporter(), torch.no_grad():
        torch.onnx.export(
            Call(),
            tuple(inputs.values()),
            path,
            opset_version=16,
            input_names=list(inputs),
            dynamo=False,
            autograd_inlining=False,
        )
    return onnx.load(path)


@pytest.fixture(scope="module")
def by_class(tmp_path_factory):
    def suppress(boxes, scores):
        return nms_by_class(boxes, scores, CLASSES, 50, 0.5, 0.05, -1, KEPT)

    inputs = {"boxes": torch.rand(2, ROIS * CLASSES, 4), "scores": torch.rand(2, ROIS * CLASSES)}
    return exported(suppress, inputs, tmp_path_factory.mktemp("nms") / "x.onnx", HEAD)


def random_boxes(generator: np.random.Generator, *shape: int) -> np.ndarray:
    corner = generator.uniform(0, 60, (*shape, 2))
    return np.concatenate([corner, corner + generator.uniform(5, 60, (*shape, 2))], axis=-1).astype(np.float32)


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_nms_by_class_is_greedy_nms_of_each_class(by_class, seed):
    generator = np.random.default_rng(seed)
    boxes = random_boxes(generator, 2, ROIS, CLASSES)
    scores = generator.uniform(0, 1, (2, ROIS, CLASSES)).astype(np.float32)
    session = open_session(by_class)
    feeds = {"boxes": boxes.reshape(2, -1, 4), "scores": scores.reshape(2, -1)}
    found, labels = session.run(None, feeds)
    assert found.shape == (2, KEPT, 5)
    for picture in range(2):
        rows = [
            (*boxes[picture, i, c], scores[picture, i, c], c)
            for c in range(CLASSES)
            for i in greedy_nms(boxes[picture, :, c], scores[picture, :, c], 0.5, 0.05)
        ]
        rows = sorted(rows, key=lambda row: -row[4])[:KEPT]
        real = found[picture, :, 4] > 0
        np.testing.assert_array_equal(found[picture][real], np.array([row[:5] for row in rows]).reshape(-1, 5))
        assert labels[picture][real].tolist() == [row[5] for row in rows]


def test_an_infinite_box_that_nms_drops_leaves_no_trace(by_class):
    generator = np.random.default_rng(1)
    boxes = random_boxes(generator, 2, ROIS * CLASSES)
    scores = generator.uniform(0.1, 1, (2, ROIS * CLASSES)).astype(np.float32)
    boxes[:, 3:, 2] = np.inf
    scores[:, 3:] = 0.01
    found, _ = open_session(by_class).run(None, {"boxes": boxes, "scores": scores})
    # Three of the eight rows are detections, the others are what NMS dropped.
    assert ((found[..., 4] > 0.05).sum(axis=1) == 3).all()
    assert np.isfinite(found).all()


def test_each_level_has_its_row_of_scores():
    scores = torch.tensor([[[0.9, 0.8, 0.0, 0.6]], [[0.1, 0.2, 0.3, 0.4]]])
    rows = row_of_each_level(scores, torch.tensor([0, 0, 1, 2]).view(1, -1, 1))
    expected = [
        [[0.9, 0.8, -1, -1], [-1, -1, 0.0, -1], [-1, -1, -1, 0.6]],
        [[0.1, 0.2, -1, -1], [-1, -1, 0.3, -1], [-1, -1, -1, 0.4]],
    ]
    torch.testing.assert_close(rows, torch.tensor(expected))


def levels_of(sides: torch.Tensor, dtype: torch.dtype, *names: str) -> list[int]:
    """FPN level of RoIs from their (K, 2) width and height."""
    from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor

    layer = {"type": "RoIAlign", "output_size": 7, "sampling_ratio": 0}
    extractor = SingleRoIExtractor(layer, 256, [4, 8, 16, 32])
    rois = torch.cat([torch.zeros(len(sides), 1), torch.full((len(sides), 2), 4.0), sides + 4], dim=1)
    with patches.applied(*names):
        return extractor.map_roi_levels(rois.to(dtype), 4).tolist()


@settings(max_examples=60)
@given(st.lists(st.tuples(*[st.floats(1, 1200, width=32)] * 2), min_size=1, max_size=20))
def test_roi_levels_are_the_same_without_the_area(sides):
    sides = torch.tensor(sides)
    # Where the scale is a power of two to the last digit, either level is right.
    octave = torch.log2(sides.prod(dim=1).double().sqrt() / 56 + 1e-6)
    sides = sides[(octave - octave.round()).abs() > 1e-5]
    assert levels_of(sides, torch.float32, "p34_roi_scale_without_area") == levels_of(sides, torch.float32)


def test_half_precision_knows_the_level_of_a_large_roi():
    sides = torch.tensor([[260.0, 260], [300, 300], [400, 420], [600, 600]])
    assert levels_of(sides, torch.float32) == [2, 2, 2, 3]
    assert levels_of(sides, torch.float16) == [3, 3, 3, 3]
    assert levels_of(sides, torch.float16, "p34_roi_scale_without_area") == [2, 2, 2, 3]


def test_pasting_a_box_without_width_is_finite_and_others_do_not_change():
    from mmdet.models.roi_heads.mask_heads import fcn_mask_head

    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(4, 1, 28, 28, generator=generator)
    boxes = torch.tensor([[3.0, 4, 30, 20], [7, 2, 7, 30], [1, 1, 2, 2], [5, 9, 40, 9]])
    usual, _ = fcn_mask_head._do_paste_mask(masks, boxes, 32, 48, skip_empty=False)
    with patches.applied("p33_paste_narrow_boxes"):
        pasted, _ = fcn_mask_head._do_paste_mask(masks, boxes, 32, 48, skip_empty=False)
    torch.testing.assert_close(pasted[[0, 2]], usual[[0, 2]], rtol=0, atol=0)
    assert torch.isfinite(pasted).all()
    # A pixel's centre can lie on the line of a box without height; nothing else belongs to it.
    assert (pasted[[1, 3]] > 0).float().mean() < 0.05


SHAPE = (3, 3, 256, 320)


@pytest.fixture(scope="module")
def windows(window):
    """Four different windows of real pictures, 256 x 320."""
    return [window(name, 256, 320, y, x) for name in ("crowd", "twins") for y, x in ((0, 0), (300, 600))]


@pytest.mark.parametrize("flavour", ["standard", "mmcv"])
def test_the_patches_work_beside_those_for_a_dynamic_batch(flavour, exported, windows):
    options = export.dynamic_options(flavour)
    files = [exported(flavour, SHAPE, **options)]
    options["applied"] = (*options["applied"], *export.HALF)
    files.append(exported(flavour, SHAPE, **options))
    runners = [OnnxRunner(file) for file in files]
    plain, patched = (detect_batch(runner, windows[:3]) for runner in runners)
    assert sum(len(found) for found in plain) > 10
    for one, other in zip(plain, patched, strict=True):
        compare(one, other).require()
    if flavour == "standard":
        model = load_onnx(files[1])
        feeds = detect.feeds(windows[1:3])
        found = hunt(model, feeds)
        assert not found.suspects, str(found)
        # The same finite numbers as with the rounding: not a run that computes nothing.
        dets = open_session(round_results(model), optimise=False).run(["dets"], feeds)[0]
        assert (dets[..., 4] > 0.5).sum() > 5


def test_the_embedded_model_needs_no_island(exported, wide, window):
    """Static, at full width: what inference finds, and nothing beyond half precision's range on the way."""
    path = exported("standard", (1, 3, 192, 1216), applied=(*export.CORRECT["standard"], *export.HALF))
    prepared = window("crowd", 192, 1216, 300)
    usual = detect_prepared(OnnxRunner(wide), prepared)
    assert len(usual) > 10
    compare(usual, detect_prepared(OnnxRunner(path), prepared)).require()
    model = load_onnx(path)
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    found = hunt(model, detect.feeds([prepared]))
    assert found.watched > 600
    assert not found.suspects, str(found)
