"""Pictures through an exported detector, in whatever runtime: what to feed it, and what its arrays mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from helpers.detector.detections import Detections
from helpers.detector.preprocess import NetworkInput, boxes_to_picture, prepare
from helpers.errors import CourseError
from helpers.graph.file import OUTPUT_NAMES
from helpers.graph.runner import Arrays, Runner, RunnerError

__all__ = ["BatchError", "detect", "detect_batch", "detect_prepared", "detections", "feeds", "stack", "to_picture"]


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
    """What a detector's graph is fed for a batch of prepared pictures: ``input`` (N, 3, H, W) float32.

    Raises:
        BatchError: as :func:`stack`.
    """
    return {"input": stack([prepared.tensor for prepared in batch])}


def detections(
    raw: Mapping[str, npt.NDArray[Any]], batch: Sequence[NetworkInput], *, drop_padding: bool = True
) -> list[Detections]:
    """A detector's output arrays for a batch, picture by picture, in pixels of the network's input; masks cover the
    resized picture, without the padding.

    ``drop_padding`` False keeps the rows that only fill the output to its fixed length.
    """
    found = []
    for i, prepared in enumerate(batch):
        height, width = prepared.resized_shape
        masks = raw["masks"][i, :, :height, :width]
        found.append(Detections.from_raw(raw["dets"][i], raw["labels"][i], masks, drop_padding=drop_padding))
    return found


def detect_batch(runner: Runner, batch: Sequence[NetworkInput], *, drop_padding: bool = True) -> list[Detections]:
    """Detections of each picture from one run of the graph, as :func:`detections` gives them.

    Raises:
        BatchError: no batch, or the graph is static at another batch.
        helpers.graph.runner.RunnerError: the graph is not a detector of :mod:`helpers.export`, or the run failed.
    """
    if not set(OUTPUT_NAMES) <= set(runner.output_names):
        raise RunnerError(
            f"{runner.name} is not a Mask R-CNN of this course (its outputs are {', '.join(runner.output_names)})",
            "use a file made by helpers.export",
        )
    given = feeds(batch)
    size = runner.input_shapes.get("input", ("",))[0]
    if isinstance(size, int) and size > 0 and size != len(batch):
        raise BatchError(
            f"{runner.name} is static at a batch of {size}, got {len(batch)} pictures",
            "export it with helpers.export.exporter.dynamic_options",
        )
    return detections(runner.run(given, OUTPUT_NAMES), batch, drop_padding=drop_padding)


def detect_prepared(runner: Runner, prepared: NetworkInput, *, drop_padding: bool = True) -> Detections:
    """Detections of one prepared picture, in pixels of the network's input, as
    :func:`helpers.detector.inference.detect_prepared` gives them without rescaling. Errors as :func:`detect_batch`.
    """
    return detect_batch(runner, [prepared], drop_padding=drop_padding)[0]


def detect(runner: Runner, picture: npt.NDArray[np.uint8]) -> Detections:
    """Detections of one BGR picture (H, W, 3) uint8, boxes and masks in the picture's own pixels."""
    height, width = runner.input_shapes["input"][2:]
    prepared = prepare(picture, (int(height), int(width)))
    return to_picture(detect_prepared(runner, prepared), prepared)


def to_picture(found: Detections, prepared: NetworkInput) -> Detections:
    """From pixels of the network's input to those of the picture: boxes and masks scaled back.

    Masks are 0 or 1 already and are resized with nearest-neighbour interpolation, as mmdet's wrapper of exported models
    does.
    """
    masks = found.masks
    if prepared.resized_shape != prepared.picture_shape:
        size = prepared.picture_shape[::-1]
        resized = [cv2.resize(mask.view(np.uint8), size, interpolation=cv2.INTER_NEAREST) for mask in masks]
        masks = np.stack(resized).astype(bool) if resized else np.zeros((0, *prepared.picture_shape), bool)
    boxes = boxes_to_picture(found.boxes, prepared)
    picture_height, picture_width = prepared.picture_shape
    boxes = np.clip(boxes, 0, np.array([picture_width, picture_height] * 2, np.float32))
    return Detections(boxes, found.scores, found.labels, masks)
