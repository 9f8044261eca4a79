"""Do two runtimes find the same? One function says so, and names the first detection that breaks it.

The contract: over the detections with a score of at least 0.05, the labels are equal, boxes differ by at most 0.01 px,
scores by at most 1e-4, and masks have an IoU of at least 0.999 or differ in at most two pixels. (A pixel whose
probability is 0.5 to the last digit falls on either side; in a mask of less than 1000 pixels, one such pixel alone is
more than a thousandth. Measured on the demo scenes, where one did.) Detections are matched by class and overlap, never
by their place in the list, because runtimes order equal scores as they like. A row whose score or box is NaN or
infinite matches nothing and breaks the contract, unless its score is a number below the floor. Over a dataset, box and
mask AP differ by at most 0.1 points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from scipy.optimize import linear_sum_assignment

from helpers.detector.detections import Detections, box_iou, mask_iou
from helpers.errors import CourseError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from helpers.detector.evaluation import AveragePrecision

__all__ = [
    "AP_TOLERANCE",
    "CONTRACT",
    "Parity",
    "ParityError",
    "Tolerance",
    "compare",
    "comparison_figure",
    "same_average_precision",
    "table",
]


class ParityError(CourseError):
    """Two runtimes that must agree do not, or what they found cannot be compared."""


@dataclass(frozen=True)
class Tolerance:
    """What counts as the same.

    score_floor: detections below it are not compared. box: px, per coordinate. score: absolute. mask_iou: least overlap
    of two masks. mask_pixels: so many pixels may differ whatever the overlap. match_iou: least overlap of two boxes to
    be taken for the same object at all.
    """

    score_floor: float = 0.05
    box: float = 1e-2
    score: float = 1e-4
    mask_iou: float = 0.999
    mask_pixels: int = 2
    match_iou: float = 0.5


CONTRACT = Tolerance()
#: Average precision from 0 to 1: 0.1 points.
AP_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Parity:
    """The outcome of :func:`compare`.

    pairs: (M, 2) indices (in first, in second) of matched detections, by falling score in first. box_error, score_error
    and mask_overlap: (M,), one entry for each pair. only_first, only_second: indices of detections without a partner.
    broken_by: the first detection that breaks the contract, in words; empty if none does.
    """

    pairs: npt.NDArray[np.int64]
    box_error: npt.NDArray[np.float64]
    score_error: npt.NDArray[np.float64]
    mask_overlap: npt.NDArray[np.float64]
    only_first: npt.NDArray[np.int64]
    only_second: npt.NDArray[np.int64]
    broken_by: str

    @property
    def agrees(self) -> bool:
        return not self.broken_by

    def require(self) -> Parity:
        """Itself, if the contract holds. Raises :class:`ParityError` naming the first detection that breaks it."""
        if self.broken_by:
            raise ParityError(self.broken_by, "search for the first tensor that differs with helpers.compare.search")
        return self

    def __str__(self) -> str:
        matched = len(self.pairs)
        worst = (
            f"; at worst box {self.box_error.max():.2g} px, score {self.score_error.max():.2g}, "
            f"mask IoU {self.mask_overlap.min():.5f}"
            if matched
            else ""
        )
        unmatched = f"{len(self.only_first)} + {len(self.only_second)} without a partner"
        verdict = "agree" if self.agrees else f"DISAGREE: {self.broken_by}"
        return f"{matched} matched, {unmatched}{worst}: {verdict}"


def compare(
    first: Detections, second: Detections, tolerance: Tolerance = CONTRACT, *, class_names: Sequence[str] = ()
) -> Parity:
    """Match the detections of one picture and check the contract.

    Both must be in the same pixels and have masks of the same size. Within each class the matching maximises the total
    overlap. A detection just above the score floor may have its partner just below it. The first detection that is not
    finite is named before all others.

    Raises:
        ParityError: the masks have different sizes.
    """
    if first.masks.shape[1:] != second.masks.shape[1:]:
        raise ParityError(
            f"masks of {first.masks.shape[1:]} and {second.masks.shape[1:]} pixels cannot be compared",
            "run both runtimes on the same prepared picture",
        )
    floor = tolerance.score_floor - tolerance.score
    finite = [np.isfinite(found.scores) & np.isfinite(found.boxes).all(axis=1) for found in (first, second)]
    rows, columns = (
        np.flatnonzero(good & (found.scores >= floor)) for found, good in zip((first, second), finite, strict=True)
    )
    pairs = _match(first, second, rows, columns, tolerance.match_iou)
    pairs = pairs[np.argsort(-first.scores[pairs[:, 0]], kind="stable")]
    i, j = pairs.T
    box_error = np.abs(first.boxes[i].astype(float) - second.boxes[j]).max(axis=1, initial=0)
    score_error = np.abs(first.scores[i].astype(float) - second.scores[j])
    overlap = np.array([mask_iou(first.masks[a], second.masks[b]) for a, b in pairs], float)
    pixels = np.array([np.count_nonzero(first.masks[a] != second.masks[b]) for a, b in pairs], int)
    masks_differ = (overlap < tolerance.mask_iou) & (pixels > tolerance.mask_pixels)
    only_first = _unmatched(first, i, tolerance)
    only_second = _unmatched(second, j, tolerance)

    # "First" means highest score: that is the one a reader looks for in the picture.
    breaks: list[tuple[float, str]] = []
    sides = zip((first, second), (only_first, only_second), finite, ("first", "second"), strict=True)
    for found, indices, good, side in sides:
        broken = np.flatnonzero(~good & _counts(found, floor))
        if len(broken):
            breaks.append((np.inf, f"the {side} has {_describe(found, broken[0], class_names)}, which is not finite"))
        elif len(indices):
            index = indices[0]
            breaks.append((float(found.scores[index]), f"only the {side} finds {_describe(found, index, class_names)}"))
    bad = (box_error > tolerance.box) | (score_error > tolerance.score) | masks_differ
    if bad.any():
        k = int(np.argmax(bad))
        what = _describe(first, i[k], class_names)
        errors = f"box off by {box_error[k]:.3g} px, score by {score_error[k]:.2g}, mask IoU {overlap[k]:.5f}"
        breaks.append((float(first.scores[i[k]]), f"{what}: {errors}"))
    broken_by = max(breaks, key=lambda entry: entry[0])[1] if breaks else ""
    return Parity(pairs, box_error, score_error, overlap, only_first, only_second, broken_by)


def _match(
    first: Detections,
    second: Detections,
    rows: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int64],
    least: float,
) -> npt.NDArray[np.int64]:
    overlap = box_iou(first.boxes[rows], second.boxes[columns])
    overlap[first.labels[rows][:, None] != second.labels[columns][None, :]] = 0
    # Among doubles of one object (equal overlap), the score decides who is whose partner.
    closeness = 1 - np.abs(first.scores[rows][:, None] - second.scores[columns][None, :])
    value = np.where(overlap >= least, overlap + 1e-3 * closeness, 0)
    a, b = linear_sum_assignment(value, maximize=True)
    kept = value[a, b] > 0
    return np.stack([rows[a[kept]], columns[b[kept]]], axis=1)


def _unmatched(found: Detections, matched: npt.NDArray[np.int64], tolerance: Tolerance) -> npt.NDArray[np.int64]:
    indices = np.setdiff1d(np.flatnonzero(_counts(found, tolerance.score_floor)), matched)
    return indices[np.argsort(-found.scores[indices], kind="stable")]


def _counts(found: Detections, floor: float) -> npt.NDArray[np.bool_]:
    return (found.scores >= floor) | ~np.isfinite(found.scores)


def _describe(found: Detections, index: int, class_names: Sequence[str]) -> str:
    label = int(found.labels[index])
    name = class_names[label] if class_names else f"class {label}"
    box = ", ".join(f"{value:.1f}" for value in found.boxes[index])
    return f"{name} (score {found.scores[index]:.3f}) at [{box}]"


def same_average_precision(first: AveragePrecision, second: AveragePrecision, tolerance: float = AP_TOLERANCE) -> bool:
    """Whether box and mask AP differ by at most ``tolerance``, 0.1 points if not told otherwise."""
    return abs(first.box - second.box) <= tolerance and abs(first.mask - second.mask) <= tolerance


def table(results: Sequence[tuple[str, Parity]]) -> dict[str, list[Any]]:
    """Several comparisons as columns, for ``pandas.DataFrame`` or any other table."""
    columns: dict[str, list[Any]] = {}
    for name, parity in results:
        matched = len(parity.pairs) > 0
        row = {
            "compared": name,
            "matched": len(parity.pairs),
            "only first": len(parity.only_first),
            "only second": len(parity.only_second),
            "worst box, px": float(parity.box_error.max()) if matched else np.nan,
            "worst score": float(parity.score_error.max()) if matched else np.nan,
            "worst mask IoU": float(parity.mask_overlap.min()) if matched else np.nan,
            "agrees": parity.agrees,
        }
        for key, value in row.items():
            columns.setdefault(key, []).append(value)
    return columns


def comparison_figure(
    picture: npt.NDArray[np.uint8],
    first: Detections,
    second: Detections,
    *,
    names: tuple[str, str] = ("first", "second"),
    class_names: Sequence[str] = (),
    tolerance: Tolerance = CONTRACT,
) -> Figure:
    """Three panels over a BGR picture (H, W, 3): both runtimes' detections, and where their masks differ.

    Matched detections are thin and white, those without a partner thick and orange with their class and score. The
    heat map counts, at each pixel, the matched masks of which exactly one covers it, and the masks without a partner.
    Boxes without an area, or with numbers that are not finite, are counted and not drawn.
    """
    parity = compare(first, second, tolerance, class_names=class_names)
    figure, axes = plt.subplots(1, 3, figsize=(18, 4.6), layout="constrained")
    sides = zip((first, second), names, (parity.only_first, parity.only_second), (0, 1), strict=True)
    for found, name, alone, column in sides:
        _draw(axes[column], picture, found, parity.pairs[:, column], alone, class_names)
        axes[column].set_title(f"{name}: {len(parity.pairs)} matched, {len(alone)} without a partner")
    difference = np.zeros(picture.shape[:2], np.int32)
    for i, j in parity.pairs if first.has_masks else ():
        difference += first.masks[i] ^ second.masks[j]
    for found, alone in ((first, parity.only_first), (second, parity.only_second)):
        for index in alone if found.has_masks else ():
            difference += found.masks[index]
    axes[2].imshow(picture[..., ::-1].mean(axis=2), cmap="gray", alpha=0.35)
    heat = axes[2].imshow(
        np.ma.masked_equal(difference, 0), cmap="inferno_r", vmin=0, vmax=max(2, int(difference.max()))
    )
    figure.colorbar(heat, ax=axes[2], label="masks that differ", ticks=MaxNLocator(integer=True))
    axes[2].set_title(f"masks differ at {np.count_nonzero(difference)} of {difference.size} pixels")
    for axis in axes:
        axis.set_axis_off()
    figure.suptitle("the two agree" if parity.agrees else f"the two disagree: {parity.broken_by}", wrap=True)
    return figure


def _draw(
    axis: Axes,
    picture: npt.NDArray[np.uint8],
    found: Detections,
    matched: npt.NDArray[np.int64],
    alone: npt.NDArray[np.int64],
    class_names: Sequence[str],
) -> None:
    axis.imshow(picture[..., ::-1])
    height, width = picture.shape[:2]
    sound = np.isfinite(found.boxes[:, 2:]) & np.isfinite(found.boxes[:, :2])
    shown: npt.NDArray[np.bool_] = np.asarray((sound & (found.boxes[:, 2:] > found.boxes[:, :2])).all(axis=1))
    for index in (i for i in (*matched, *alone) if shown[i]):
        x1, y1, x2, y2 = found.boxes[index]
        colour, line = ("white", 0.8) if index in matched else ("orange", 3)
        axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=line))
    # The strongest few get words; more would hide the picture.
    for index in alone[shown[alone]][:8]:
        label = int(found.labels[index])
        text = f"{class_names[label] if class_names else label} {found.scores[index]:.2f}"
        # Above its box; under the box's upper edge where the panel's title would be hidden. To the inside of the panel.
        x1, y1, x2, _ = found.boxes[index].clip(0, [width, height, width, height])
        x, side = (x1, "left") if x1 + x2 < width else (x2, "right")
        vertical = "top" if y1 < height / 8 else "bottom"
        plate = {"facecolor": "orange", "edgecolor": "none", "pad": 1}
        axis.text(x, y1, text, color="black", fontsize=8, ha=side, va=vertical, bbox=plate)
