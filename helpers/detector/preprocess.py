"""From a picture to the network's input and back: one definition for every runtime, script and notebook.

The picture is scaled, keeping its aspect ratio, by the largest factor at which it fits inside the network's input,
placed in the top left corner, normalised, and padded with zeros on the right and at the bottom.
Coordinates follow mmdet 2.x: a box edge at x pixels of the picture lies at ``x * scale`` pixels of the input.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from helpers.artifacts import read_regular
from helpers.errors import CourseError

__all__ = [
    "INPUT_HEIGHT",
    "INPUT_WIDTH",
    "MEAN",
    "STD",
    "ImageError",
    "NetworkInput",
    "boxes_to_picture",
    "denormalise",
    "fit_scale",
    "prepare",
    "read_picture",
]

INPUT_HEIGHT, INPUT_WIDTH = 800, 1216
# ImageNet statistics in RGB order, 0-255: the `img_norm_cfg` of mmdet's torchvision-style ResNet configs.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


class ImageError(CourseError):
    """A picture cannot be read, or has no pixels."""


@dataclass(frozen=True)
class NetworkInput:
    """One picture ready for the network.

    tensor: (1, 3, H, W) float32, normalised, RGB.
    scale: input pixels per picture pixel, (x, y); the two differ by rounding only.
    picture_shape: (height, width) of the picture; resized_shape: of its place in the input.
    """

    tensor: npt.NDArray[np.float32]
    scale: tuple[float, float]
    picture_shape: tuple[int, int]
    resized_shape: tuple[int, int]

    @classmethod
    def full(cls, tensor: npt.NDArray[np.float32]) -> NetworkInput:
        """A tensor (1, 3, H, W) as the prepared form of a picture of its own size: no padding, no rescaling."""
        height, width = tensor.shape[2:]
        return cls(tensor, (1.0, 1.0), (height, width), (height, width))

    def meta(self) -> dict[str, Any]:
        """The ``img_metas`` entry that mmdet 2.x expects beside the tensor."""
        height, width = self.tensor.shape[2:]
        scale_x, scale_y = self.scale
        return {
            "img_shape": (*self.resized_shape, 3),
            "ori_shape": (*self.picture_shape, 3),
            "pad_shape": (height, width, 3),
            "scale_factor": np.array([scale_x, scale_y, scale_x, scale_y], np.float32),
            "flip": False,
            "flip_direction": None,
            "filename": None,
            "batch_input_shape": (height, width),
        }


def read_picture(path: Path | str) -> npt.NDArray[np.uint8]:
    """Read a picture as (H, W, 3) uint8 in BGR order, OpenCV's and mmcv's convention.

    16-bit values are scaled to 8 bits, as OpenCV has it.

    Raises:
        ImageError: there is no such file, it is not a picture that OpenCV can decode (one of more than 2**30 pixels is
            none), it has no pixels, or it holds values of 12 bits or fewer in 16, which would read as almost black.
    """
    path = Path(path)
    try:
        data = np.frombuffer(read_regular(path), np.uint8)
    except OSError as error:
        raise ImageError(
            f"cannot read the picture {path} ({error.strerror})", "give the path of a readable file"
        ) from None
    picture = _decode(path, data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if picture.dtype == np.uint16 and 0 < picture.max() < _FAINT:
        raise ImageError(
            f"{path} has 16 bits a value and none above {picture.max()}, and would read as almost black",
            "scale its values to 0 to 65535, or save it with 8 bits",
        )
    return np.asarray(picture if picture.dtype == np.uint8 else _decode(path, data, cv2.IMREAD_COLOR), np.uint8)


# Values of 12 bits.
_FAINT = 1 << 12


def _decode(path: Path, data: npt.NDArray[np.uint8], form: int) -> npt.NDArray[Any]:
    try:
        picture = cv2.imdecode(data, form) if data.size else None
    except cv2.error as error:
        raise ImageError(
            f"OpenCV refuses the picture {path} ({' '.join(error.err.split())})", "give a smaller PNG or JPEG file"
        ) from None
    if picture is None or picture.size == 0:
        raise ImageError(f"{path} is not a picture that can be decoded", "give a whole PNG or JPEG file")
    return picture


def fit_scale(picture_shape: tuple[int, int], input_shape: tuple[int, int]) -> tuple[int, int]:
    """The (height, width) of a picture scaled to just fit inside ``input_shape``, both (height, width).

    Raises:
        ImageError: the picture has no pixels.
    """
    height, width = picture_shape
    if height < 1 or width < 1:
        raise ImageError(f"the picture is {width} x {height} pixels", "give a picture with at least one pixel")
    factor = min(input_shape[0] / height, input_shape[1] / width)
    # mmcv.rescale_size rounds half up; do the same so that both paths resize to the same shape.
    return (max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5)))


def prepare(picture: npt.NDArray[np.uint8], input_shape: tuple[int, int] = (INPUT_HEIGHT, INPUT_WIDTH)) -> NetworkInput:
    """Scale, normalise and pad one BGR picture (H, W, 3) uint8.

    Raises:
        ImageError: wrong shape or type, or a side of zero pixels.
    """
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise ImageError(
            f"a picture must be (height, width, 3) uint8, got {picture.shape} {picture.dtype}",
            "convert it, or read it with helpers.detector.preprocess.read_picture",
        )
    height, width = picture.shape[:2]
    resized_height, resized_width = fit_scale((height, width), input_shape)
    resized = cv2.resize(picture, (resized_width, resized_height), interpolation=cv2.INTER_LINEAR)
    # In this order and with these types mmcv's imnormalize does it: any other changes the last digit.
    normalised = cv2.cvtColor(resized.astype(np.float32), cv2.COLOR_BGR2RGB)
    mean, std = (np.array(values, np.float32).astype(np.float64)[None] for values in (MEAN, STD))
    cv2.subtract(normalised, mean, normalised)
    cv2.multiply(normalised, 1 / std, normalised)
    padded = np.zeros((*input_shape, 3), np.float32)
    padded[:resized_height, :resized_width] = normalised
    return NetworkInput(
        tensor=np.ascontiguousarray(padded.transpose(2, 0, 1)[None]),
        scale=(resized_width / width, resized_height / height),
        picture_shape=(height, width),
        resized_shape=(resized_height, resized_width),
    )


def boxes_to_picture(boxes: npt.NDArray[np.float32], prepared: NetworkInput) -> npt.NDArray[np.float32]:
    """Boxes (N, 4) xyxy from input pixels to picture pixels."""
    scale_x, scale_y = prepared.scale
    return np.asarray(boxes / np.array([scale_x, scale_y, scale_x, scale_y], np.float32), np.float32)


def denormalise(prepared: NetworkInput) -> npt.NDArray[np.uint8]:
    """The input as a BGR picture of the input's size (padding becomes the mean colour): what the network sees."""
    rgb = prepared.tensor[0].transpose(1, 2, 0) * np.array(STD, np.float32) + np.array(MEAN, np.float32)
    return np.ascontiguousarray(rgb[..., ::-1].round().clip(0, 255).astype(np.uint8))
