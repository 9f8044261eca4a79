"""The same preprocessing as :mod:`helpers.detector.preprocess`, as a test pipeline of mmdet's."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from helpers.compat import ensure_torchvision
from helpers.detector.preprocess import INPUT_HEIGHT, INPUT_WIDTH, MEAN, STD, fit_scale

ensure_torchvision()

from mmdet.datasets.builder import PIPELINES  # noqa: E402

__all__ = ["FitInside", "mmdet_pipeline"]


@PIPELINES.register_module(force=True)
class FitInside:
    """mmdet pipeline step: the resize of :func:`helpers.detector.preprocess.prepare`.

    mmdet's own ``Resize(keep_ratio=True)`` matches the long side of the picture with the long side of the scale, so a
    portrait picture would not fit a landscape input.
    """

    def __init__(self, height: int, width: int) -> None:
        self.input_shape = (height, width)

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        picture = results["img"]
        height, width = picture.shape[:2]
        new_height, new_width = fit_scale((height, width), self.input_shape)
        resized = cv2.resize(picture, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
        scale = np.array([new_width / width, new_height / height] * 2, np.float32)
        return {
            **results,
            "img": resized,
            "img_shape": resized.shape,
            "pad_shape": resized.shape,
            "scale_factor": scale,
            "keep_ratio": True,
        }


def mmdet_pipeline(height: int = INPUT_HEIGHT, width: int = INPUT_WIDTH) -> list[dict[str, Any]]:
    """The mmdet test pipeline that gives :func:`helpers.detector.preprocess.prepare`'s tensor, for a config's
    ``data.test.pipeline``.
    """
    return [
        {"type": "LoadImageFromFile"},
        {
            "type": "MultiScaleFlipAug",
            "img_scale": (width, height),
            "flip": False,
            "transforms": [
                {"type": "FitInside", "height": height, "width": width},
                {"type": "Normalize", "mean": list(MEAN), "std": list(STD), "to_rgb": True},
                {"type": "Pad", "size": (height, width)},
                {"type": "ImageToTensor", "keys": ["img"]},
                {"type": "Collect", "keys": ["img"]},
            ],
        },
    ]
