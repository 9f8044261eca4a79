"""Whether a half-precision run found what the FP32 run found: matched detections, within what half precision can do.

Beside :mod:`helpers.compare.parity`, whose contract is for FP32. Needs neither mmdet nor a runtime, so that it works on
a GPU machine that has neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from helpers.compare.parity import Tolerance, compare
from helpers.detector.detections import Detections

__all__ = ["HALF_TOLERANCE", "Agreement", "HalfTolerance", "agreement"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class HalfTolerance:
    """What a half-precision run may differ by and still be right.

    score_floor: detections below it are not compared. share: least share of detections, of both sides together, that
    have a partner of the same class. box: px, for the median over the partners of the worst coordinate: beyond 1024 px
    half precision has a step of 1 px, and a box far out cannot be better than that.
    """

    score_floor: float = 0.5
    share: float = 0.9
    box: float = 1.0


#: Measured with it on the demo scenes: graphs without overflow reach shares of 0.97 to 1 and medians of 0.3 to 0.7 px.
HALF_TOLERANCE = HalfTolerance()


@dataclass(frozen=True)
class Agreement:
    """How far a run's detections are those of another. matched: pairs of the same class; alone: detections of either
    side without a partner; box: median error of the pairs' worst coordinates in px, NaN without a pair; non_finite:
    numbers of the boxes and scores that are inf or NaN.
    """

    matched: int
    alone: int
    box: float
    non_finite: int

    @property
    def share(self) -> float:
        """Of all detections of both sides, those with a partner; 1 if there are none at all."""
        both = 2 * self.matched + self.alone
        return 2 * self.matched / both if both else 1.0

    def within(self, tolerance: HalfTolerance = HALF_TOLERANCE) -> bool:
        """Whether the run is right: every number finite, and the same detections by the tolerance."""
        # Written so that a NaN median fails unless there was nothing to find.
        close = self.box <= tolerance.box or not self.matched + self.alone
        return not self.non_finite and self.share >= tolerance.share and close

    def __str__(self) -> str:
        text = f"{self.matched} matched, {self.alone} without a partner"
        text += f", boxes {self.box:.2g} px off in the median" if self.matched else ""
        return f"{self.non_finite} numbers of dets not finite, {text}" if self.non_finite else text


def agreement(
    reference: Mapping[str, Array], found: Mapping[str, Array], tolerance: HalfTolerance = HALF_TOLERANCE
) -> Agreement:
    """Compare the outputs ``dets`` (B, N, 5) and ``labels`` (B, N) of two runs, picture by picture."""
    matched = alone = 0
    errors: list[npt.NDArray[np.float64]] = []
    for picture in range(len(reference["dets"])):
        ours, theirs = (_boxes_only(run["dets"][picture], run["labels"][picture]) for run in (reference, found))
        parity = compare(ours, theirs, Tolerance(score_floor=tolerance.score_floor, score=0.05))
        matched += len(parity.pairs)
        alone += len(parity.only_first) + len(parity.only_second)
        errors.append(parity.box_error)
    error = np.concatenate(errors)
    bad = int(np.count_nonzero(~np.isfinite(found["dets"])))
    return Agreement(matched, alone, float(np.median(error)) if len(error) else float("nan"), bad)


def _boxes_only(dets: Array, labels: Array) -> Detections:
    # Boxes that are not finite overlap with none. Masks that are all alike do not count.
    boxes = np.where(np.isfinite(dets), dets, 0)
    return Detections.from_raw(boxes, labels, np.ones((len(dets), 1, 1)))
