"""Pictures of any shape and size: the exported graph finds what PyTorch finds, alone, in a batch, in the picture's own
pixels."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import patches
from helpers.compare.parity import compare
from helpers.compat import ensure_torchvision
from helpers.detector import inference
from helpers.detector.models import build_random_detector
from helpers.detector.preprocess import NetworkInput, prepare, read_picture
from helpers.export import exporter as export
from helpers.graph import detect
from helpers.graph.file import load_onnx
from helpers.graph.onnx_runtime import OnnxRunner
from helpers.paths import DATA

ensure_torchvision()
SHAPE = (3, 3, 256, 320)
NAMES = ("crowd", "huge", "shelf", "square", "thumbnail", "tiny", "tower", "twins")


@pytest.fixture(scope="module")
def demo():
    return {name: read_picture(DATA / "demo" / f"{name}.jpg") for name in NAMES}


@pytest.fixture(scope="module")
def runners(exported):
    """Both flavours with a dynamic batch, and the standard one with the half patches and lean masks."""
    options = {flavour: export.dynamic_options(flavour) for flavour in export.FLAVOURS}
    files = {flavour: exported(flavour, SHAPE, **chosen) for flavour, chosen in options.items()}
    half = options["standard"] | {"applied": (*options["standard"]["applied"], *export.HALF)}
    files["lean"] = exported("standard", SHAPE, masks="lean", **half)
    return {name: OnnxRunner(path) for name, path in files.items()}


def test_any_part_of_any_picture_in_every_form(light_detector, runners, demo):
    seen = []

    @settings(max_examples=6, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(NAMES), st.tuples(*[st.floats(0.05, 1)] * 2), st.tuples(*[st.floats(0, 1)] * 2))
    def check(name, part, corner):
        whole = np.array(demo[name].shape[:2])
        size = np.maximum(8, whole * part).astype(int)
        top, left = first = ((whole - size) * corner).astype(int)
        bottom, right = first + size
        prepared = prepare(np.ascontiguousarray(demo[name][top:bottom, left:right]), SHAPE[2:])
        expected = inference.detect_prepared(light_detector, prepared, rescale=False)
        seen.append(len(expected))
        for runner in runners.values():
            compare(expected, detect.detect_prepared(runner, prepared)).require()

    check()
    assert sum(seen) > 20


def agree(detector, runners, pictures):
    """Each picture in each runner; the number of detections by the picture's name."""
    counts = {}
    for name, picture in pictures.items():
        prepared = prepare(picture, SHAPE[2:])
        expected = inference.detect_prepared(detector, prepared, rescale=False)
        counts[name] = len(expected)
        for runner in runners:
            compare(expected, detect.detect_prepared(runner, prepared)).require()
    return counts


def test_what_is_hardly_a_picture_agrees(light_detector, runners, unusual_pictures):
    counts = agree(light_detector, [runners["lean"]], {name: unusual_pictures[name] for name in ("nothing", "long")})
    assert counts["nothing"] == 0 < counts["long"]


@pytest.mark.slow
def test_full_masks_and_the_mmcv_flavours_lean_ones_agree_on_it_too(
    light_detector, runners, exported, unusual_pictures
):
    mmcv = OnnxRunner(exported("mmcv", SHAPE, masks="lean", **export.dynamic_options("mmcv")))
    counts = agree(light_detector, [runners["standard"], runners["lean"], mmcv], unusual_pictures)
    assert counts.pop("nothing") == 0 < min(counts.values())


def test_a_batch_of_four_shapes_in_three_orders(light_detector, runners, demo):
    crowd = demo["crowd"]
    shapes = {"4:3": crowd[:, :1066], "3:4": crowd[:, :600], "1:1": demo["square"], "16:9": crowd[:684]}
    batch = [prepare(np.ascontiguousarray(picture), SHAPE[2:]) for picture in shapes.values()]
    expected = [inference.detect_prepared(light_detector, prepared, rescale=False) for prepared in batch]
    assert min(len(found) for found in expected) > 5
    for order, form in (((0, 1, 2, 3), "standard"), ((2, 0, 3, 1), "lean"), ((3, 2, 1, 0), "standard")):
        for i, found in zip(order, detect.detect_batch(runners[form], [batch[j] for j in order]), strict=True):
            compare(expected[i], found).require()


@pytest.mark.parametrize("name", ["thumbnail", "tower", "small"])
def test_lean_masks_agree_in_the_pictures_own_pixels(light_detector, runners, demo, name):
    picture = cv2.resize(demo["shelf"], (133, 100), interpolation=cv2.INTER_AREA) if name == "small" else demo[name]
    prepared = prepare(picture, SHAPE[2:])
    expected = inference.detect_prepared(light_detector, prepared, rescale=True)
    assert len(expected) > 5
    compare(expected, detect.detect(runners["lean"], picture)).require()
    # What the picture's pixels make of masks that were pasted into the input.
    resized = compare(expected, detect.detect(runners["standard"], picture))
    assert (resized.mask_overlap.min() < 0.999) == (prepared.resized_shape != picture.shape[:2])


def test_lean_masks_are_probabilities_and_nothing_where_nothing_is(runners, demo):
    prepared = prepare(demo["twins"][:300, :300], SHAPE[2:])
    raw = runners["lean"].run(detect.feeds([prepared]))
    assert raw["masks"].shape == (1, 20, 28, 28)
    padding = raw["dets"][0, :, 4] <= 0
    assert 0 < padding.sum() < 20
    assert not raw["masks"][0, padding].any()
    assert ((raw["masks"][0, ~padding] > 0) & (raw["masks"][0, ~padding] < 1)).all()


def test_a_graph_says_what_it_takes(exported):
    dynamic = load_onnx(exported("standard", SHAPE, **export.dynamic_options()))
    shapes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in dynamic.graph.input}
    assert shapes == {"input": ["batch", *SHAPE[1:]], "image_size": ["batch", 2]}
    tensor = np.zeros((1, *SHAPE[1:]), np.float32)
    feeds = detect.feeds([NetworkInput(tensor, (1, 1), (9, 9), size) for size in ((256, 19), (24, 320))])
    assert feeds["image_size"].dtype == np.float32
    assert feeds["image_size"].tolist() == [[256, 19], [24, 320]]
    assert dict(detect.batch_profile(SHAPE[1:], 4))["image_size"] == ((1, 2), (1, 2), (4, 2))


def test_lean_masks_are_refused_where_they_would_be_wrong(tmp_path):
    detector = build_random_detector("emoji")
    with pytest.raises(export.ExportError, match="no form of masks 'thin'"):
        export.export_onnx(detector, tmp_path / "x.onnx", masks="thin")
    detector.roi_head.test_cfg.mask_thr_binary = 0.4
    with pytest.raises(export.ExportError, match=r"mask_thr_binary is 0\.4, and lean masks are pasted at 0\.5"):
        export.export_onnx(detector, tmp_path / "x.onnx", masks="lean")
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_each_row_is_clipped_to_its_own_picture_as_inference_clips(seed):
    from mmdet.core.bbox.coder.delta_xywh_bbox_coder import delta2bbox
    from mmdet.core.export import onnx_helper

    random = np.random.default_rng(seed)
    corners = torch.from_numpy(random.uniform(-50, 400, (3, 5, 4)).astype(np.float32))
    sizes = torch.tensor([[256.0, 320], [24, 320], [256, 19]])
    with patches.applied("p10_clip_to_picture"):
        clipped = onnx_helper.dynamic_clip_for_onnx(*corners.split(1, dim=-1), sizes)
    found = torch.cat(clipped, dim=-1)
    for boxes, size, result in zip(corners, sizes, found, strict=True):
        # Decoded without an offset, a box is its anchor, but for rounding.
        expected = delta2bbox(boxes, torch.zeros(5, 4), max_shape=tuple(size.tolist()))
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-4)
        assert (result <= size.flip(0).repeat(2)).all()
