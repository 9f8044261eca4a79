"""One dataclass for "what a detector found in one picture", whichever runtime found it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from helpers.detector.paste import empty_masks

__all__ = ["Detections", "box_iou", "mask_iou"]


@dataclass(frozen=True)
class Detections:
    """The detections of one picture, in no particular order.

    boxes: (N, 4) float32, x1 y1 x2 y2 in pixels of the picture that ``masks`` covers.
    scores: (N,) float32 in [0, 1].
    labels: (N,) int64, 0-based class index in the model's class order.
    masks: (N, H, W) bool, already thresholded; (N, 0, 0) of a detector that finds boxes only.
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    masks: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        count = len(self.boxes)
        if self.boxes.shape != (count, 4) or self.masks.ndim != 3:
            raise ValueError(f"boxes must be (N, 4) and masks (N, H, W), got {self.boxes.shape}, {self.masks.shape}")
        if not len(self.scores) == len(self.labels) == len(self.masks) == count:
            raise ValueError("boxes, scores, labels and masks must have the same length")

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Any) -> Detections:
        """A subset, by anything that indexes an array's first axis with the axis kept (slice, mask, index array)."""
        return Detections(self.boxes[index], self.scores[index], self.labels[index], self.masks[index])

    @property
    def has_masks(self) -> bool:
        """Whether the detector finds masks at all."""
        return self.masks.shape[1:] != (0, 0)

    def above(self, score: float) -> Detections:
        """Those with at least this score."""
        return self[self.scores >= score]

    @classmethod
    def from_mmdet(
        cls, result: tuple[Sequence[Any], Sequence[Any]] | Sequence[Any], picture_shape: tuple[int, int]
    ) -> Detections:
        """From mmdet 2.x's ``(bbox_results, segm_results)``: per class an (n, 5) array and a list of (H, W) masks; or
        from the ``bbox_results`` alone that a detector without masks returns.

        ``picture_shape`` (height, width) gives the mask size when nothing was found.
        """
        boxes_only = not isinstance(result, tuple)
        box_results, mask_results = (result, ()) if boxes_only else result
        if boxes_only:
            picture_shape = (0, 0)
        rows = np.concatenate([np.asarray(rows, np.float32).reshape(-1, 5) for rows in box_results])
        labels = np.repeat(np.arange(len(box_results)), [len(rows) for rows in box_results])
        masks = [np.asarray(mask, bool) for of_class in mask_results for mask in of_class]
        if masks:
            stacked = np.stack(masks, out=empty_masks(len(masks), masks[0].shape))
        else:
            stacked = np.zeros((len(rows) if boxes_only else 0, *picture_shape), bool)
        return cls(
            boxes=rows[:, :4],
            scores=rows[:, 4],
            labels=labels.astype(np.int64),
            masks=stacked,
        )

    @classmethod
    def from_raw(
        cls,
        dets: npt.NDArray[np.floating[Any]],
        labels: npt.NDArray[np.integer[Any]],
        masks: npt.NDArray[Any],
        *,
        mask_threshold: float = 0.5,
        drop_padding: bool = True,
    ) -> Detections:
        """From one picture of an exported graph: dets (N, 5), labels (N,), masks (N, H, W) of probabilities or bool.

        An exported graph pads to a fixed number of rows; the padding rows have a zero box and a zero score.
        ``drop_padding`` removes rows whose score is not positive, which no real detection has.
        """
        found = cls(
            boxes=np.asarray(dets[:, :4], np.float32),
            scores=np.asarray(dets[:, 4], np.float32),
            labels=np.asarray(labels, np.int64),
            masks=masks if masks.dtype == bool else masks >= mask_threshold,
        )
        return found[found.scores > 0] if drop_padding else found


def box_iou(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Intersection over union of every pair: (N, 4) and (M, 4) xyxy boxes to (N, M). Empty boxes give 0."""
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    top_left = np.maximum(a[:, None, :2], b[None, :, :2])
    bottom_right = np.minimum(a[:, None, 2:], b[None, :, 2:])
    intersection = np.clip(bottom_right - top_left, 0, None).prod(axis=2)
    area_a, area_b = ((boxes[:, 2:] - boxes[:, :2]).clip(0).prod(axis=1) for boxes in (a, b))
    union = area_a[:, None] + area_b[None, :] - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)


def mask_iou(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> float:
    """Intersection over union of two (H, W) masks; two empty masks are equal, hence 1."""
    union = np.logical_or(first, second).sum()
    return float(np.logical_and(first, second).sum() / union) if union else 1.0
