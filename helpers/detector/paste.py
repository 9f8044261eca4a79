"""Masks of 28 x 28 probabilities, pasted straight into the pixels of a picture, as mmdet's inference pastes them.

A mask head answers for the inside of a box. Its values are sampled at the centres of the picture's pixels: bilinear,
zero outside, each value at the centre of its cell (``grid_sample`` with ``align_corners=False``; mmdet's
``_do_paste_mask``). Bilinear weights along one axis are a hat function, so a region of the picture is rows of weights @
values @ columns of weights.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["empty_masks", "paste", "paste_rle", "pasted_regions"]

Array = npt.NDArray[Any]
#: mmdet's ``mask_thr_binary``, unless the config says otherwise.
THRESHOLD = 0.5


def _weights(low: np.float32, high: np.float32, cells: int, start: int, stop: int) -> npt.NDArray[np.float32]:
    """(stop - start, cells): how much each cell between ``low`` and ``high`` counts at each pixel's centre."""
    centres = np.arange(start, stop, dtype=np.float32) + np.float32(0.5)
    with np.errstate(divide="ignore", invalid="ignore"):
        places = (centres - low) / (high - low) * 2 - 1
    # A box without width: inference takes the middle of the mask.
    places[np.isinf(places)] = 0
    places = ((places + 1) * cells - 1) / 2
    # fmax: what is not a number counts nothing.
    return np.fmax(0, 1 - np.abs(places[:, None] - np.arange(cells, dtype=np.float32)))


def pasted_regions(
    values: Array, boxes: Array, shape: tuple[int, int], *, threshold: float = THRESHOLD
) -> Iterator[tuple[tuple[slice, slice], npt.NDArray[np.bool_]]]:
    """For each object, where its mask may lie in the picture (rows, columns), and the mask there.

    values: (n, h, w) float probabilities. boxes: (n, 4) xyxy in the picture's pixels, those that the values are about.
    shape: (height, width) of the picture. A pixel belongs to the mask from ``threshold`` on. The region is the box and
    a pixel around it, inside the picture; a box that is not finite has none.
    """
    values, boxes = np.asarray(values, np.float32), np.asarray(boxes, np.float32)
    for cells, box in zip(values, boxes, strict=True):
        finite = box if np.isfinite(box).all() else np.zeros_like(box) - 9
        first = np.clip(np.floor(finite[:2]) - 1, 0, shape[::-1]).astype(int)
        last = np.clip(np.ceil(finite[2:]) + 1, first, shape[::-1]).astype(int)
        columns, rows = (
            _weights(box[axis], box[axis + 2], cells.shape[1 - axis], first[axis], last[axis]) for axis in (0, 1)
        )
        where = (slice(first[1], last[1]), slice(first[0], last[0]))
        yield where, rows @ cells @ columns.T >= threshold


def empty_masks(count: int, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """(count, height, width) of False, without numpy's huge pages: for 100 masks Linux now and then takes 0.2 s to find
    them, and most of the pixels of a mask are never touched."""
    size = count * shape[0] * shape[1]
    return np.frombuffer(mmap.mmap(-1, max(size, 1)), bool, size).reshape(count, *shape)


def paste(
    values: Array, boxes: Array, shape: tuple[int, int], *, threshold: float = THRESHOLD
) -> npt.NDArray[np.bool_]:
    """(n, height, width) masks; arguments as for :func:`pasted_regions`."""
    masks = empty_masks(len(values), shape)
    for mask, (where, region) in zip(masks, pasted_regions(values, boxes, shape, threshold=threshold), strict=True):
        mask[where] = region
    return masks


def paste_rle(
    values: Array, boxes: Array, shape: tuple[int, int], *, threshold: float = THRESHOLD
) -> list[dict[str, Any]]:
    """The masks in COCO's compressed run-length form (``size``, ``counts`` as bytes), one whole mask in memory at
    a time; arguments as for :func:`pasted_regions`."""
    from pycocotools import mask as coco_mask

    encoded = []
    for where, region in pasted_regions(values, boxes, shape, threshold=threshold):
        whole = np.zeros(shape, np.uint8, order="F")
        whole[where] = region
        encoded.append(coco_mask.encode(whole))
    return encoded
