"""Pasting without torch against mmdet's own pasting."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from helpers.compat import ensure_torchvision
from helpers.detector.paste import paste, paste_rle, pasted_regions

ensure_torchvision()
SHAPE = (23, 31)
# Beyond the picture, without width, thinner than a pixel, on the border of pixels.
COORDINATES = st.sampled_from([-7.25, 0.0, 0.5, 3.0, 3.0625, 11.7, 23.0, 29.9, 31.0, 40.0])
BOXES = st.lists(st.tuples(*[COORDINATES] * 4), min_size=1, max_size=4)


def by_mmdet(values: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """As ``FCNMaskHead.get_seg_masks`` does on a CPU: one by one, in a region around the box."""
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

    masks = np.zeros((len(values), *SHAPE), np.float32)
    for mask, value, box in zip(masks, torch.from_numpy(values), torch.from_numpy(boxes), strict=True):
        if (box[:2] - 1 < torch.tensor(SHAPE[::-1])).all() and (box[2:] + 1 > 0).all():
            pasted, where = _do_paste_mask(value[None, None], box[None], *SHAPE, skip_empty=True)
            mask[where] = pasted[0]
    return masks


@settings(max_examples=60, derandomize=True, database=None)
@given(BOXES, st.integers(0, 99), st.sampled_from([(28, 28), (3, 5)]))
def test_masks_are_pasted_as_inference_pastes_them(corners, seed, cells):
    boxes = np.array([(*np.minimum(c[:2], c[2:]), *np.maximum(c[:2], c[2:])) for c in corners], np.float32)
    values = np.random.default_rng(seed).uniform(0, 1, (len(boxes), *cells)).astype(np.float32)
    expected = by_mmdet(values, boxes)
    masks = paste(values, boxes, SHAPE)
    assert masks.shape == expected.shape
    # 0.5 to the last digit falls on either side.
    assert not ((masks != (expected >= 0.5)) & (np.abs(expected - 0.5) > 1e-5)).any()
    decoded = [coco_mask.decode(rle).astype(bool) for rle in paste_rle(values, boxes, SHAPE)]
    np.testing.assert_array_equal(decoded, masks)


def test_a_full_mask_fills_its_box_and_the_threshold_counts():
    boxes = np.array([[4, 2, 10, 8]], np.float32)
    expected = np.zeros((1, *SHAPE), bool)
    expected[0, 2:8, 4:10] = True
    half = np.full((1, 28, 28), 0.5, np.float32)
    np.testing.assert_array_equal(paste(half, boxes, SHAPE), expected)
    assert not paste(half, boxes, SHAPE, threshold=0.51).any()


def test_what_is_no_box_has_no_mask():
    values = np.ones((3, 28, 28), np.float32)
    boxes = np.array([[np.nan, 0, 9, 9], [0, 0, np.inf, 9], [50, 60, 70, 80]], np.float32)
    assert not paste(values, boxes, SHAPE).any()
    assert [region.size for _, region in pasted_regions(values, boxes, SHAPE)] == [0, 0, 0]
    assert paste(values[:0], boxes[:0], SHAPE).shape == (0, *SHAPE)
    assert paste_rle(values[:0], boxes[:0], SHAPE) == []
