"""Pictures through an exported detector, in whatever runtime: what to feed it, and what its arrays mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from helpers.detector.detections import Detections
from helpers.detector.paste import paste
from helpers.detector.preprocess import COURSE, NetworkInput, Preprocessing, boxes_to_picture, prepare
from helpers.errors import CourseError
from helpers.graph.file import INPUT_NAMES, OUTPUT_NAMES
from helpers.graph.runner import Arrays, Runner, RunnerError

__all__ = [
    "BatchError",
    "batch_profile",
    "detect",
    "detect_batch",
    "detect_prepared",
    "detections",
    "feeds",
    "stack",
    "to_picture",
]


Shape = tuple[int, ...]
# What every detector's graph gives; one without a mask head gives no more.
_BOXES = ("dets", "labels")


class BatchError(CourseError):
    """Tensors that do not make a batch, or a batch that the graph does not take."""


def stack(tensors: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """Prepared pictures (1, 3, H, W) as one batch (N, 3, H, W).

    Raises:
        BatchError: there is none, or they have different shapes.
    """
    if not tensors:
        raise BatchError("a batch of 0 pictures cannot be run", "give at least one picture")
    if shapes := {tensor.shape for tensor in tensors} - {tensors[0].shape}:
        raise BatchError(
            f"pictures of {tensors[0].shape} and {min(shapes)} make no batch", "prepare all of them in the same way"
        )
    return np.concatenate(tensors)


def feeds(batch: Sequence[NetworkInput]) -> Arrays:
    """What a detector's graph is fed for a batch of prepared pictures: ``input`` (N, 3, H, W) float32, and
    ``image_size`` (N, 2) float32, height and width of each picture's place in the input. A graph that has no second
    input leaves it out.

    Raises:
        BatchError: as :func:`stack`.
    """
    sizes = np.array([prepared.resized_shape for prepared in batch], np.float32)
    return dict(zip(INPUT_NAMES, (stack([prepared.tensor for prepared in batch]), sizes), strict=True))


def batch_profile(picture_shape: Sequence[int], largest: int) -> tuple[tuple[str, tuple[Shape, Shape, Shape]], ...]:
    """The (least, usual, largest) shape of each of a detector's inputs, by its name, for engines that are to take 1 to
    ``largest`` pictures: what :class:`helpers.tensorrt.builder.BuildOptions` has as its profile.

    picture_shape: (3, H, W) of one picture in the input.
    """
    parts = zip(INPUT_NAMES, (tuple(picture_shape), (2,)), strict=True)
    return tuple((name, ((1, *rest), (1, *rest), (largest, *rest))) for name, rest in parts)


def detections(
    raw: Mapping[str, npt.NDArray[Any]],
    batch: Sequence[NetworkInput],
    *,
    drop_padding: bool = True,
    rescale: bool = False,
) -> list[Detections]:
    """A detector's output arrays for a batch, picture by picture, in pixels of the network's input; masks cover the
    resized picture, without the padding. ``rescale`` gives them in each picture's own pixels instead. A graph without
    masks gives masks of no pixels.

    Lean masks, which do not have the input's height and width, are pasted at once where they are wanted, as inference
    does; others can only be resized (:func:`to_picture`). ``drop_padding`` False keeps the rows that only fill the
    output to its fixed length. A row whose score is no finite number is not padding: it stays, to be seen.
    """
    found = []
    for i, prepared in enumerate(batch):
        height, width = prepared.resized_shape
        dets, labels = raw["dets"][i], raw["labels"][i]
        masks = raw["masks"][i] if "masks" in raw else np.zeros((len(dets), 0, 0), np.float32)
        lean = masks.shape[1:] not in ((0, 0), prepared.tensor.shape[2:])
        if drop_padding:
            real = (dets[:, 4] > 0) | ~np.isfinite(dets[:, 4])
            dets, labels, masks = (array[real] for array in (dets, labels, masks))
        if lean and rescale:
            masks = paste(masks, boxes_to_picture(dets[:, :4], prepared), prepared.picture_shape)
        elif lean:
            masks = paste(masks, dets[:, :4], prepared.resized_shape)
        else:
            masks = masks[:, :height, :width]
        one = Detections.from_raw(dets, labels, masks, drop_padding=False)
        found.append(to_picture(one, prepared) if rescale else one)
    return found


def detect_batch(
    runner: Runner, batch: Sequence[NetworkInput], *, drop_padding: bool = True, rescale: bool = False
) -> list[Detections]:
    """Detections of each picture from one run of the graph, as :func:`detections` gives them.

    Raises:
        BatchError: no batch, or the graph is static at another batch.
        helpers.graph.runner.RunnerError: the graph is not a detector of :mod:`helpers.export`, or the run failed.
    """
    if not set(_BOXES) <= set(runner.output_names):
        raise RunnerError(
            f"{runner.name} is not a detector of this course (its outputs are {', '.join(runner.output_names)})",
            "use a file made by helpers.export",
        )
    given = feeds(batch)
    size = runner.input_shapes.get("input", ("",))[0]
    if isinstance(size, int) and size > 0 and size != len(batch):
        raise BatchError(
            f"{runner.name} is static at a batch of {size}, got {len(batch)} pictures",
            "export it with helpers.export.exporter.dynamic_options",
        )
    wanted = [name for name in OUTPUT_NAMES if name in runner.output_names]
    return detections(runner.run(given, wanted), batch, drop_padding=drop_padding, rescale=rescale)


def detect_prepared(
    runner: Runner, prepared: NetworkInput, *, drop_padding: bool = True, rescale: bool = False
) -> Detections:
    """Detections of one prepared picture as :func:`helpers.detector.inference.detect_prepared` gives them. Errors as
    :func:`detect_batch`.
    """
    return detect_batch(runner, [prepared], drop_padding=drop_padding, rescale=rescale)[0]


def detect(runner: Runner, picture: npt.NDArray[np.uint8], preprocessing: Preprocessing = COURSE) -> Detections:
    """Detections of one BGR picture (H, W, 3) uint8, boxes and masks in the picture's own pixels."""
    height, width = runner.input_shapes["input"][2:]
    prepared = prepare(picture, (int(height), int(width)), preprocessing)
    return detect_prepared(runner, prepared, rescale=True)


def to_picture(found: Detections, prepared: NetworkInput) -> Detections:
    """From pixels of the network's input to those of the picture: boxes and masks scaled back.

    Masks that do not have the picture's size yet are 0 or 1 already, and are resized with nearest-neighbour
    interpolation, as mmdet's wrapper of exported models does: for small pictures that is far from what inference gives
    (an IoU of 0.83 at 132 x 100). Export with ``masks="lean"`` for masks as good as inference's.
    """
    masks = found.masks
    if found.has_masks and masks.shape[1:] != prepared.picture_shape:
        size = prepared.picture_shape[::-1]
        resized = [cv2.resize(mask.view(np.uint8), size, interpolation=cv2.INTER_NEAREST) for mask in masks]
        masks = np.stack(resized).astype(bool) if resized else np.zeros((0, *prepared.picture_shape), bool)
    boxes = boxes_to_picture(found.boxes, prepared)
    picture_height, picture_width = prepared.picture_shape
    inside = np.clip(boxes, 0, np.array([picture_width, picture_height] * 2, np.float32))
    # An infinite corner is no corner at the picture's edge.
    boxes = np.where(np.isfinite(boxes).all(axis=1, keepdims=True), inside, boxes)
    return Detections(boxes, found.scores, found.labels, masks)
