"""Pictures of detections: overlays, strips, differences.

Pictures are (H, W, 3) uint8 arrays in RGB order here, because they are made to be shown;
``helpers.detector.preprocess`` reads BGR, so pass ``picture[..., ::-1]`` or use :func:`to_rgb`.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.detector.detections import Detections

__all__ = [
    "class_colour",
    "difference",
    "draw_boxes",
    "heat",
    "overlay",
    "strip",
    "to_rgb",
]

Picture = npt.NDArray[np.uint8]


def to_rgb(bgr: Picture) -> Picture:
    """BGR (OpenCV's order) to RGB, contiguous."""
    return np.ascontiguousarray(bgr[..., ::-1])


def class_colour(label: int) -> tuple[int, int, int]:
    """An RGB colour for a class index; neighbouring indices get distant hues (golden-ratio steps)."""
    red, green, blue = colorsys.hsv_to_rgb((label * 0.618034) % 1.0, 0.85, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_boxes(
    picture: Picture,
    boxes: npt.NDArray[np.floating],
    colour: tuple[int, int, int] | Sequence[tuple[int, int, int]],
    *,
    thickness: int = 2,
) -> Picture:
    """A copy of ``picture`` with (N, 4) xyxy boxes, in one colour or one for each box."""
    drawn = picture.copy()
    colours = [colour] * len(boxes) if colour and isinstance(colour[0], int) else list(colour)
    for box, of_box in zip(boxes, colours, strict=True):
        x1, y1, x2, y2 = (round(float(value)) for value in box)
        cv2.rectangle(drawn, (x1, y1), (x2, y2), of_box, thickness, cv2.LINE_AA)  # type: ignore[call-overload]
    return drawn


def overlay(
    picture: Picture,
    found: Detections,
    class_names: Sequence[str],
    *,
    score_threshold: float = 0.3,
    opacity: float = 0.45,
    boxes: bool = True,
    text: bool = True,
) -> Picture:
    """The picture with each detection's mask, outline, box, class and score. Low scores are drawn first."""
    drawn = picture.copy()
    shown = found.above(score_threshold)
    shown = shown[np.argsort(shown.scores)]
    for mask, label in zip(shown.masks, shown.labels, strict=True):
        colour = class_colour(int(label))
        drawn[mask] = (drawn[mask] * (1 - opacity) + np.array(colour) * opacity).astype(np.uint8)
        outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(drawn, outlines, -1, colour, 2, cv2.LINE_AA)
    for box, label, confidence in zip(shown.boxes, shown.labels, shown.scores, strict=True):
        colour = class_colour(int(label))
        if boxes:
            drawn = draw_boxes(drawn, box[None], colour, thickness=1)
        if text:
            _label(drawn, f"{class_names[int(label)]} {confidence:.2f}", int(box[0]), int(box[1]), colour)
    return drawn


def _label(picture: Picture, text: str, x: int, y: int, colour: tuple[int, int, int]) -> None:
    """Black text on a plate of ``colour`` above (x, y), moved inside the picture; drawn in place."""
    (width, height), baseline = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.42, 1)
    x = max(0, min(x, picture.shape[1] - width))
    y = max(height + baseline, y)
    cv2.rectangle(picture, (x, y - height - baseline), (x + width, y), colour, -1)
    cv2.putText(picture, text, (x, y - baseline + 1), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)


def heat(values: npt.NDArray[np.floating], *, colour_map: str = "magma") -> Picture:
    """A 2-D array as an RGB picture, its finite range stretched over the colour map."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    scaled = (np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) / ((high - low) or 1.0)
    return np.asarray(plt.get_cmap(colour_map)(scaled)[..., :3] * 255, np.uint8)


def difference(first: Picture, second: Picture) -> Picture:
    """Where two pictures of equal shape differ: grey where equal, red where not, brighter for a larger difference.

    Raises ValueError for different shapes.
    """
    if first.shape != second.shape:
        raise ValueError(f"pictures of shapes {first.shape} and {second.shape} cannot be compared")
    gap = np.abs(first.astype(np.int16) - second.astype(np.int16)).max(axis=2)
    grey = cv2.cvtColor(cv2.cvtColor(first, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB) // 2
    red = np.zeros_like(grey)
    red[..., 0] = np.where(gap > 0, np.maximum(gap, 96), 0)
    return np.where((gap > 0)[..., None], red, grey).astype(np.uint8)


def strip(
    pictures: Sequence[Picture],
    titles: Sequence[str],
    *,
    columns: int | None = None,
    width: float = 14.0,
    suptitle: str | None = None,
) -> Figure:
    """Pictures side by side (or in rows of ``columns``), each with its title; ``width`` in inches.

    A row is as high as its tallest picture asks for, but a picture higher than wide is drawn narrower than its column,
    and one of more than ten times its height does not make its row flatter still.
    """
    columns = columns or len(pictures)
    asked = [picture.shape[0] / picture.shape[1] for picture in pictures]
    tallest = [max(asked[i : i + columns]) for i in range(0, len(asked), columns)]
    heights = [width / columns * min(max(0.1, ratio), 1) + 0.35 for ratio in tallest]
    figure, axes = plt.subplots(
        len(heights),
        columns,
        figsize=(width, sum(heights) + (0.4 if suptitle else 0)),
        gridspec_kw={"height_ratios": heights},
        squeeze=False,
        layout="constrained",
    )
    flat: list[Axes] = list(axes.flat)
    for axis in flat:
        axis.axis("off")
    for axis, picture, title in zip(flat, pictures, titles, strict=False):
        axis.imshow(picture)
        axis.set_title(title, fontsize=10)
    if suptitle:
        figure.suptitle(suptitle, fontsize=13)
    return figure
