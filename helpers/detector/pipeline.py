"""A config's test pipeline as a :class:`helpers.detector.preprocess.Preprocessing`, and back."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from helpers.compat import ensure_torchvision
from helpers.detector.preprocess import COURSE, NetworkInput, Preprocessing
from helpers.errors import CourseError

ensure_torchvision()

from mmdet.datasets.builder import PIPELINES  # noqa: E402

__all__ = ["FitInside", "PipelineError", "as_the_pipeline", "mmdet_pipeline", "read_pipeline", "read_steps"]

#: Steps that do nothing to the pixels of a picture that is not flipped.
_NOTHING = {"RandomFlip", "ImageToTensor", "DefaultFormatBundle", "Collect"}
_ORDER = ("LoadImageFromFile", "Resize", "Normalize", "Pad")


class PipelineError(CourseError):
    """A config has no test pipeline, or one that does something that cannot be done outside of mmdet yet."""


@PIPELINES.register_module(force=True)
class FitInside:
    """mmdet pipeline step: the resize of :class:`helpers.detector.preprocess.Preprocessing`.

    mmdet's own ``Resize(keep_ratio=True)`` matches the long side of the picture with the long side of the scale, so a
    portrait picture would not fit a landscape input.
    """

    def __init__(self, height: int, width: int, scale: Sequence[int] | None = None, keep_ratio: bool = True) -> None:
        wanted = (int(scale[0]), int(scale[1])) if scale else None
        self.rule = Preprocessing(height, width, scale=wanted, keep_ratio=keep_ratio)

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        picture = results["img"]
        height, width = picture.shape[:2]
        new_height, new_width = self.rule.resized((height, width))
        resized = cv2.resize(picture, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
        scale = np.array([new_width / width, new_height / height] * 2, np.float32)
        return {
            **results,
            "img": resized,
            "img_shape": resized.shape,
            "pad_shape": resized.shape,
            "scale_factor": scale,
            "keep_ratio": self.rule.keep_ratio,
        }


def mmdet_pipeline(preprocessing: Preprocessing = COURSE) -> list[dict[str, Any]]:
    """The mmdet test pipeline that gives :func:`helpers.detector.preprocess.prepare`'s tensor, for a config's
    ``data.test.pipeline``.
    """
    height, width = preprocessing.input_shape
    mean, std = list(preprocessing.mean), list(preprocessing.std)
    fit = {"type": "FitInside", "height": height, "width": width}
    if preprocessing.scale or not preprocessing.keep_ratio:
        fit |= {"scale": preprocessing.scale, "keep_ratio": preprocessing.keep_ratio}
    return [
        {"type": "LoadImageFromFile"},
        {
            "type": "MultiScaleFlipAug",
            "img_scale": (width, height),
            "flip": False,
            "transforms": [
                fit,
                {"type": "Normalize", "mean": mean, "std": std, "to_rgb": preprocessing.to_rgb},
                {"type": "Pad", "size": (height, width)},
                {"type": "ImageToTensor", "keys": ["img"]},
                {"type": "Collect", "keys": ["img"]},
            ],
        },
    ]


def read_pipeline(config: Mapping[str, Any]) -> Preprocessing:
    """What a config's test pipeline (``data.test.pipeline``, or ``test_pipeline``) does to a picture.

    The input is as large as the largest picture that the pipeline makes of a landscape one: its ``img_scale`` with the
    padding.

    Raises:
        PipelineError: there is no such pipeline, or it does what is not known here; names the step.
    """
    return read_steps(_test_steps(config))


def _test_steps(config: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    test = (config.get("data") or {}).get("test") or {}
    if isinstance(test, list):
        test = test[0] if test else {}
    while "pipeline" not in test and isinstance(test.get("dataset"), Mapping):
        test = test["dataset"]
    steps: Sequence[Mapping[str, Any]] | None = test.get("pipeline") or config.get("test_pipeline")
    if not steps:
        raise PipelineError("the config has no test pipeline (data.test.pipeline)", "add the one it was trained with")
    return steps


def as_the_pipeline(config: Mapping[str, Any], file: Path | str, prepared: NetworkInput) -> bool | None:
    """Whether a prepared picture has, bit for bit, the pixels that the config's own test pipeline gives when mmdet runs
    it on the file; None where it was scaled to another size, to fit the input.
    """
    from mmdet.datasets.pipelines import Compose

    theirs = Compose(copy.deepcopy(list(_test_steps(config))))(
        {"img_info": {"filename": str(file)}, "img_prefix": None}
    )
    image, meta = (value[0] if isinstance(value, list) else value for value in (theirs["img"], theirs["img_metas"]))
    if tuple(meta.data["img_shape"][:2]) != prepared.resized_shape:
        return None
    height, width = prepared.resized_shape
    return bool(np.array_equal(np.asarray(image)[:, :height, :width], prepared.tensor[0, :, :height, :width]))


def read_steps(steps: Sequence[Mapping[str, Any]]) -> Preprocessing:
    """As :func:`read_pipeline`, of the list of steps."""
    flat, around = _flat(steps)
    known = {step["type"]: step for step in flat}
    kinds = [step["type"] for step in flat if step["type"] not in _NOTHING]
    kinds = ["Resize" if kind == "FitInside" else kind for kind in kinds]
    for kind in kinds:
        _check(kind in _ORDER, f"it has the step {kind}", "take the step out, or export by hand")
    _check(sorted(kinds, key=_ORDER.index) == kinds, f"its steps come in the order {', '.join(kinds)}", "reorder them")
    _check(len(set(kinds)) == len(kinds), "it has a step twice", "take one out")
    for kind in ("Resize", "Normalize"):
        _check(kind in kinds, f"it has no step {kind}", "add the one the model was trained with")
    loading = known.get("LoadImageFromFile", {})
    for key, value in (("to_float32", False), ("color_type", "color"), ("channel_order", "bgr")):
        _check(loading.get(key, value) == value, f"LoadImageFromFile has {key}={loading.get(key)!r}", f"use {value!r}")
    norm = known["Normalize"]
    mean, std = (tuple(float(value) for value in norm[key]) for key in ("mean", "std"))
    _check(len(mean) == len(std) == 3, f"its pictures have {len(mean)} channels", "use a model of colour pictures")
    common: dict[str, Any] = {"mean": mean, "std": std, "to_rgb": bool(norm.get("to_rgb", True))}
    padding = known.get("Pad", {})
    value = padding.get("pad_val", 0)
    value = value.get("img", 0) if isinstance(value, Mapping) else value
    # OpenCV puts a single number into the first channel only.
    _check(not np.any(value), f"it pads with {value}", "pad with 0")
    if fit := known.get("FitInside"):
        scale = tuple(fit["scale"]) if fit.get("scale") else None
        kept = fit.get("keep_ratio", True)
        return Preprocessing(fit["height"], fit["width"], keep_ratio=kept, scale=scale, **common)
    resize = known["Resize"]
    _check(resize.get("interpolation", "bilinear") == "bilinear", "it does not resize bilinearly", "use 'bilinear'")
    _check(resize.get("backend", "cv2") == "cv2", "it resizes with another library than OpenCV", "use backend='cv2'")
    scale = _one_scale(around.get("img_scale") or resize.get("img_scale"))
    kept = bool(resize.get("keep_ratio", True))
    height, width = (min(scale), max(scale)) if kept else scale[::-1]
    if padding.get("size"):
        height, width = padding["size"]
    elif padding.get("pad_to_square"):
        height = width = max(height, width)
    else:
        divisor = int(padding.get("size_divisor") or 1)
        height, width = (math.ceil(side / divisor) * divisor for side in (height, width))
    return Preprocessing(int(height), int(width), keep_ratio=kept, scale=scale, **common)


def _check(holds: bool, what: str, next_step: str) -> None:
    if not holds:
        raise PipelineError(f"the config's test pipeline cannot be read: {what}", next_step)


def _flat(steps: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], Mapping[str, Any]]:
    """The steps with those inside of a MultiScaleFlipAug, which comes second."""
    around: Mapping[str, Any] = {}
    flat: list[Mapping[str, Any]] = []
    for step in steps:
        if step["type"] != "MultiScaleFlipAug":
            flat.append(step)
            continue
        around = step
        _check(not step.get("flip", False), "it flips pictures too", "set flip=False")
        _check(not step.get("scale_factor"), "it scales by a factor", "use img_scale")
        flat += step["transforms"]
    return flat, around


def _one_scale(scale: Any) -> tuple[int, int]:
    if isinstance(scale, (list, tuple)) and scale and isinstance(scale[0], (list, tuple)):
        _check(len(scale) == 1, f"it runs pictures at {len(scale)} sizes", "keep one img_scale")
        scale = scale[0]
    _check(isinstance(scale, (list, tuple)) and len(scale) == 2, "it has no img_scale", "add one")
    return int(scale[0]), int(scale[1])
