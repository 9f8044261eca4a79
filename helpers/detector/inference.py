"""PyTorch inference with an mmdet detector, on arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from helpers.detector.detections import Detections
from helpers.detector.preprocess import NetworkInput, prepare

if TYPE_CHECKING:
    from mmdet.models.detectors import BaseDetector

__all__ = ["detect", "detect_prepared"]


def detect_prepared(detector: BaseDetector, prepared: NetworkInput, *, rescale: bool) -> Detections:
    """Run the detector on one prepared picture.

    ``rescale`` True gives boxes and masks in the picture's own pixels, False in those of the network's input (masks
    then cover the resized picture, without the padding).
    """
    device = next(detector.parameters()).device
    tensor = torch.from_numpy(prepared.tensor).to(device)
    with torch.no_grad():
        result = detector(return_loss=False, rescale=rescale, img=[tensor], img_metas=[[prepared.meta()]])[0]
    return Detections.from_mmdet(result, prepared.picture_shape if rescale else prepared.resized_shape)


def detect(detector: BaseDetector, picture: npt.NDArray[np.uint8]) -> Detections:
    """Run the detector on one BGR picture (H, W, 3) uint8; boxes and masks in the picture's pixels."""
    return detect_prepared(detector, prepare(picture), rescale=True)
