"""From a picture to the network's input and back: one definition for every runtime, script and notebook.

The picture is scaled, keeping its aspect ratio, by the largest factor at which it fits inside the network's input,
placed in the top left corner, normalised, and padded with zeros on the right and at the bottom. Models of one's own
may want other numbers, another order of the channels or another resize: a :class:`Preprocessing` says so
(:func:`helpers.detector.pipeline.read_pipeline` reads it from a config).
Coordinates follow mmdet 2.x: a box edge at x pixels of the picture lies at ``x * scale`` pixels of the input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from helpers.artifacts import read_regular
from helpers.errors import CourseError

__all__ = [
    "COURSE",
    "INPUT_HEIGHT",
    "INPUT_WIDTH",
    "MEAN",
    "STD",
    "ImageError",
    "NetworkInput",
    "Preprocessing",
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
class Preprocessing:
    """How a picture becomes the network's input.

    height, width: of the input, in pixels. mean, std: of the 0-255 channels in the order that the network gets them.
    to_rgb: whether that order is RGB (else BGR, as OpenCV reads). scale: mmdet's ``img_scale``, or None. keep_ratio:
    scale both sides by the largest factor at which the picture fits inside the input, and its longer and shorter side
    the longer and shorter of ``scale``. (mmdet has the second rule only, and another input for a portrait picture.)
    Without keep_ratio, the picture is stretched to ``scale`` (width, height), or to the whole input. Zeros fill what is
    left, after normalisation.
    """

    height: int = INPUT_HEIGHT
    width: int = INPUT_WIDTH
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD
    to_rgb: bool = True
    keep_ratio: bool = True
    scale: tuple[int, int] | None = None

    @property
    def input_shape(self) -> tuple[int, int]:
        """(height, width) of the network's input."""
        return self.height, self.width

    def resized(self, picture_shape: tuple[int, int]) -> tuple[int, int]:
        """The (height, width) that a picture of this (height, width) is scaled to.

        Raises:
            ImageError: the picture has no pixels.
        """
        height, width = picture_shape
        if height < 1 or width < 1:
            raise ImageError(f"the picture is {width} x {height} pixels", "give a picture with at least one pixel")
        if not self.keep_ratio:
            return (self.scale[1], self.scale[0]) if self.scale else self.input_shape
        factors = [self.height / height, self.width / width]
        if self.scale is not None:
            factors += [max(self.scale) / max(picture_shape), min(self.scale) / min(picture_shape)]
        # mmcv.rescale_size rounds half up; do the same so that both paths resize to the same shape.
        return max(1, int(height * min(factors) + 0.5)), max(1, int(width * min(factors) + 0.5))

    def at(self, input_shape: tuple[int, int]) -> Preprocessing:
        """The same for an input of another (height, width): pictures are scaled down where they would not fit."""
        height, width = input_shape
        # What is stretched fills its input.
        return replace(self, height=height, width=width, scale=self.scale if self.keep_ratio else None)

    def to_json(self) -> dict[str, Any]:
        """As a dictionary that JSON can hold."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Preprocessing:
        """The inverse of :meth:`to_json`; other entries do not count. A missing one raises KeyError."""
        values: dict[str, Any] = {field.name: content[field.name] for field in fields(cls)}
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return cls(**values)


#: The course's own, for the models that have a name.
COURSE = Preprocessing()


@dataclass(frozen=True)
class NetworkInput:
    """One picture ready for the network.

    tensor: (1, 3, H, W) float32, normalised, RGB unless its :class:`Preprocessing` says otherwise.
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
            none), it has no pixels, or it has 16 bits a value and none above a quarter of their range. A camera's
            12 or 14 bits, which would read as far too dark, cannot be told from a dark picture there.
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
            f"{path} has 16 bits a value and none above {picture.max()}: with 12 or 14 bits it would read as too dark",
            "scale its values to 0 to 65535, or save it with 8 bits",
        )
    return np.asarray(picture if picture.dtype == np.uint8 else _decode(path, data, cv2.IMREAD_COLOR), np.uint8)


# Values of 14 bits.
_FAINT = 1 << 14


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
    return Preprocessing(*input_shape).resized(picture_shape)


def prepare(
    picture: npt.NDArray[np.uint8],
    input_shape: tuple[int, int] | None = None,
    preprocessing: Preprocessing = COURSE,
) -> NetworkInput:
    """Scale, normalise and pad one BGR picture (H, W, 3) uint8.

    ``input_shape`` (height, width) takes the place of the preprocessing's own.

    Raises:
        ImageError: wrong shape or type, or a side of zero pixels.
    """
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise ImageError(
            f"a picture must be (height, width, 3) uint8, got {picture.shape} {picture.dtype}",
            "convert it, or read it with helpers.detector.preprocess.read_picture",
        )
    chosen = preprocessing if input_shape is None else preprocessing.at(input_shape)
    height, width = picture.shape[:2]
    resized_height, resized_width = chosen.resized((height, width))
    resized = cv2.resize(picture, (resized_width, resized_height), interpolation=cv2.INTER_LINEAR)
    # In this order and with these types mmcv's imnormalize does it: any other changes the last digit.
    normalised = resized.astype(np.float32)
    if chosen.to_rgb:
        cv2.cvtColor(normalised, cv2.COLOR_BGR2RGB, normalised)
    mean, std = (np.array(values, np.float32).astype(np.float64)[None] for values in (chosen.mean, chosen.std))
    cv2.subtract(normalised, mean, normalised)
    cv2.multiply(normalised, 1 / std, normalised)
    padded = np.zeros((*chosen.input_shape, 3), np.float32)
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


def denormalise(prepared: NetworkInput, preprocessing: Preprocessing = COURSE) -> npt.NDArray[np.uint8]:
    """The input as a BGR picture of the input's size (padding becomes the mean colour): what the network sees."""
    mean, std = (np.array(values, np.float32) for values in (preprocessing.mean, preprocessing.std))
    seen = prepared.tensor[0].transpose(1, 2, 0) * std + mean
    bgr = seen[..., ::-1] if preprocessing.to_rgb else seen
    return np.ascontiguousarray(bgr.round().clip(0, 255).astype(np.uint8))
