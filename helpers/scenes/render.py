"""Pictures of many emoji with exact instance masks: the training, validation and demo scenes.

Every scene is a function of its seed and of the sprites. Sprites are drawn back to front, each one scaled, rotated,
flipped and recoloured; the mask of an instance is what is left visible of it once all that lies in front is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from pycocotools import mask as rle

from helpers.scenes.emoji_art import Sprite

__all__ = [
    "DEMO_STYLES",
    "USUAL_SHAPE",
    "VALIDATION_STYLES",
    "Scene",
    "SceneStyle",
    "coco_annotations",
    "coco_dataset",
    "render_scene",
    "style_for",
]

Picture = npt.NDArray[np.uint8]

# (height, width) of a picture that fills the network's input, as every training scene does.
USUAL_SHAPE = (800, 1216)


@dataclass(frozen=True)
class SceneStyle:
    """What a scene is made of.

    instances: the range (inclusive) of how many sprites are drawn.
    size: the range of the longest side in pixels, drawn log-uniformly, before rotation.
    classes: names to choose from; empty for all. same_class_share: how often a sprite repeats the class (and picture
    neighbourhood) of one drawn before, which makes overlaps that only NMS within the class can resolve.
    shape: (height, width) of the picture.
    """

    instances: tuple[int, int] = (22, 40)
    size: tuple[float, float] = (16.0, 400.0)
    classes: tuple[str, ...] = ()
    same_class_share: float = 0.15
    shape: tuple[int, int] = USUAL_SHAPE


@dataclass(frozen=True)
class Scene:
    """A picture (H, W, 3) uint8 BGR; ``owner`` (H, W) int16 holds the visible instance's index at each pixel or -1;
    ``labels`` (N,) is the class index of each instance. Instances hidden beyond recognition have been painted into the
    background, so every index below N occurs in ``owner``."""

    picture: Picture
    owner: npt.NDArray[np.int16]
    labels: npt.NDArray[np.int64]

    def masks(self) -> npt.NDArray[np.bool_]:
        """(N, H, W) visible masks."""
        return self.owner[None] == np.arange(len(self.labels), dtype=np.int16)[:, None, None]

    def boxes(self) -> npt.NDArray[np.float32]:
        """(N, 4) xyxy, tight around the visible masks; right and bottom are one past the last pixel."""
        boxes = np.zeros((len(self.labels), 4), np.float32)
        for index in range(len(self.labels)):
            visible = self.owner == index
            rows, columns = np.flatnonzero(visible.any(axis=1)), np.flatnonzero(visible.any(axis=0))
            boxes[index] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        return boxes


# The demo scenes: each is hard in one way, the last four by the picture's shape. The classes stand on both sides of
# index 54 (donut), where labels times 1216 pass the largest half-precision number.
DEMO_STYLES: dict[str, SceneStyle] = {
    "crowd": SceneStyle(instances=(80, 80), size=(40, 170), same_class_share=0.1),
    "tiny": SceneStyle(instances=(70, 70), size=(16, 60), same_class_share=0.1),
    "huge": SceneStyle(instances=(18, 18), size=(180, 400), same_class_share=0.0),
    "twins": SceneStyle(
        instances=(44, 44),
        size=(60, 220),
        classes=("cat", "dog", "donut", "pizza", "car", "zebra", "clock", "teddy bear", "umbrella", "person"),
        same_class_share=0.6,
    ),
    "shelf": SceneStyle(
        instances=(52, 52),
        size=(50, 190),
        classes=("backpack", "bottle", "cup", "bowl", "apple", "potted plant", "book", "clock", "vase", "scissors"),
        shape=(768, 1024),
    ),
    "tower": SceneStyle(instances=(46, 46), size=(50, 190), shape=(1024, 768)),
    "square": SceneStyle(instances=(36, 36), size=(40, 160), shape=(640, 640)),
    "thumbnail": SceneStyle(instances=(20, 20), size=(24, 84), shape=(240, 320)),
}

# An instance counts if this much of it, and this many pixels, stay visible; less could not be told by a person.
MIN_VISIBLE_SHARE, MIN_VISIBLE_PIXELS = 0.30, 40


def style_for(shape: tuple[int, int]) -> SceneStyle:
    """The usual style for a picture of ``shape`` (height, width): as many objects of all classes.

    The largest shrink with the picture (by the square root of its area). The smallest keep the usual size, both in the
    picture and where it is scaled to fit :data:`USUAL_SHAPE`: less could not be told there.
    """
    usual = SceneStyle()
    low, high = usual.size
    fit = min(full / side for full, side in zip(USUAL_SHAPE, shape, strict=True))
    share = shape[0] * shape[1] / (USUAL_SHAPE[0] * USUAL_SHAPE[1])
    return replace(usual, size=(low / min(1.0, fit), high * min(1.0, share) ** 0.5), shape=shape)


# The validation set: scenes as in training, then twelve of other shapes (4:3 and 3:4, square, 16:9 and 9:16, 3:1 and
# 1:3), smaller and larger than the network's input.
VALIDATION_STYLES = (SceneStyle(),) * 48 + tuple(
    style_for((height, width))
    for width, height in (
        (1024, 768),
        (768, 1024),
        (800, 800),
        (1280, 720),
        (720, 1280),
        (640, 480),
        (480, 640),
        (1600, 1200),
        (1920, 1080),
        (320, 240),
        (1200, 400),
        (320, 960),
    )
)


def render_scene(
    seed: int,
    sprites: Sequence[Sprite],
    class_names: Sequence[str],
    style: SceneStyle | None = None,
) -> Scene:
    """Draw the scene that belongs to ``seed``.

    ``class_names`` gives the order of ``labels`` (COCO's 80 names).
    """
    style = style or SceneStyle()
    shape = style.shape
    random = np.random.default_rng(seed)
    by_class: dict[str, list[Sprite]] = {}
    for sprite in sprites:
        if not style.classes or sprite.class_name in style.classes:
            by_class.setdefault(sprite.class_name, []).append(sprite)
    drawn = _choose(random, by_class, style, shape)
    canvas = _background(random, shape).astype(np.float32)
    owner = np.full(shape, -1, np.int16)
    labels, full_areas = [], []
    for index, (class_name, patch, x, y) in enumerate(drawn):
        full_areas.append(_paste(canvas, owner, patch, x, y, index))
        labels.append(class_names.index(class_name))
    visible = np.bincount(owner[owner >= 0], minlength=len(drawn))
    kept = [
        index
        for index, area in enumerate(full_areas)
        if visible[index] >= max(MIN_VISIBLE_PIXELS, MIN_VISIBLE_SHARE * area)
    ]
    renumber = np.full(len(drawn) + 1, -1, np.int16)  # the last entry serves owner == -1
    renumber[kept] = np.arange(len(kept))
    picture = _camera(random, canvas)
    return Scene(picture, renumber[owner], np.array([labels[index] for index in kept], np.int64))


def _choose(
    random: np.random.Generator, by_class: dict[str, list[Sprite]], style: SceneStyle, shape: tuple[int, int]
) -> list[tuple[str, Picture, int, int]]:
    """The transformed sprites with their centres, in drawing order."""
    height, width = shape
    names = sorted(by_class)
    count = int(random.integers(style.instances[0], style.instances[1] + 1))
    low, high = np.log(style.size)
    sizes = np.exp(random.uniform(low, high, count))
    # Mostly large before small, so that small ones are not simply lost; the noise lets some be covered.
    sizes = sizes[np.argsort(-np.log(sizes) + random.normal(0, 0.35, count))]
    drawn: list[tuple[str, Picture, int, int]] = []
    taken = np.zeros((0, 3))  # centre and radius of what is there
    for size in sizes:
        twin = drawn[int(random.integers(len(drawn)))] if drawn and random.random() < style.same_class_share else None
        name = twin[0] if twin else names[int(random.integers(len(names)))]
        sprite = by_class[name][int(random.integers(len(by_class[name])))]
        patch = _transform(random, sprite.rgba, size)
        if twin:
            reach = 0.75 * max(twin[1].shape[:2])
            angle = random.uniform(0, 2 * np.pi)
            centre = np.array([twin[2] + reach * np.cos(angle), twin[3] + reach * np.sin(angle)])
        else:
            # Of a few places take the emptiest: scenes fill evenly, and overlap still happens.
            places = random.uniform((0, 0), (width, height), (6, 2))
            if len(taken):
                gaps = np.linalg.norm(places[:, None] - taken[None, :, :2], axis=2) - taken[None, :, 2]
                centre = places[gaps.min(axis=1).argmax()]
            else:
                centre = places[0]
        x, y = int(np.clip(centre[0], 0, width - 1)), int(np.clip(centre[1], 0, height - 1))
        taken = np.vstack([taken, [x, y, size / 2]])
        drawn.append((name, patch, x, y))
    return drawn


def _transform(random: np.random.Generator, rgba: Picture, size: float) -> Picture:
    """Scale to ``size`` (longest side), rotate, flip and recolour one sprite; returns premultiplied RGBA."""
    height, width = rgba.shape[:2]
    factor = size / max(height, width)
    small = cv2.resize(
        rgba,
        (max(4, round(width * factor)), max(4, round(height * factor))),
        interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR,
    )
    if random.random() < 0.5:
        small = small[:, ::-1]
    small = np.ascontiguousarray(small)
    shift = random.uniform(-9, 9), random.uniform(0.75, 1.2), random.uniform(0.8, 1.12)
    hsv = cv2.cvtColor(small[..., :3], cv2.COLOR_RGB2HSV).astype(np.float32)
    hsv[..., 0] = (hsv[..., 0] + shift[0]) % 180
    hsv[..., 1:] = (hsv[..., 1:] * shift[1:]).clip(0, 255)
    colour = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB)
    # Premultiplied, so that the transparent surroundings' colour does not bleed in while rotating.
    alpha = small[..., 3:]
    premultiplied = np.dstack([(colour.astype(np.uint16) * alpha // 255).astype(np.uint8), alpha])
    height, width = premultiplied.shape[:2]
    angle = float(np.clip(random.normal(0, 18), -75, 75))
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1.0)
    cosine, sine = abs(matrix[0, 0]), abs(matrix[0, 1])
    new_width, new_height = int(height * sine + width * cosine) + 1, int(height * cosine + width * sine) + 1
    matrix[:, 2] += (new_width - width) / 2, (new_height - height) / 2
    return np.asarray(cv2.warpAffine(premultiplied, matrix, (new_width, new_height)), np.uint8)


def _paste(
    canvas: npt.NDArray[np.float32], owner: npt.NDArray[np.int16], patch: Picture, x: int, y: int, index: int
) -> int:
    """Draw premultiplied RGBA ``patch`` centred at (x, y); returns its opaque area, inside the picture or not."""
    height, width = patch.shape[:2]
    left, top = x - width // 2, y - height // 2
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + width, canvas.shape[1]), min(top + height, canvas.shape[0])
    part = patch[y0 - top : y1 - top, x0 - left : x1 - left]
    alpha = part[..., 3:].astype(np.float32) / 255
    region = canvas[y0:y1, x0:x1]
    region *= 1 - alpha
    region += part[..., 2::-1]  # RGB to BGR
    owner[y0:y1, x0:x1][part[..., 3] >= 128] = index
    return int((patch[..., 3] >= 128).sum())


def _background(random: np.random.Generator, shape: tuple[int, int]) -> Picture:
    """A gradient, cloudy noise and one of several patterns, in muted colours."""
    height, width = shape
    colours = random.uniform(30, 235, (4, 3)).astype(np.float32)
    corners = colours.reshape(2, 2, 3)
    base: npt.NDArray[Any] = cv2.resize(corners, (width, height), interpolation=cv2.INTER_LINEAR)
    for cells in (4, 12, 40, 130):
        noise = random.normal(0, 1, (cells * 2 // 3 + 2, cells + 2)).astype(np.float32)
        cloud = np.asarray(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC))
        base += cloud[..., None] * random.uniform(2, 16) * random.uniform(0.5, 1, 3).astype(np.float32)
    kind = int(random.integers(6))
    tint = random.uniform(-45, 45, 3).astype(np.float32)
    period = random.uniform(18, 140)
    if kind in (0, 1):  # stripes, checks
        angle = random.uniform(0, np.pi)
        xs = np.arange(width, dtype=np.float32)[None] / period
        ys = np.arange(height, dtype=np.float32)[:, None] / period
        along, across = xs * np.cos(angle) + ys * np.sin(angle), ys * np.cos(angle) - xs * np.sin(angle)
        pattern = np.floor(along) % 2 if kind == 0 else (np.floor(along) + np.floor(across)) % 2
        base += pattern[..., None].astype(np.float32) * tint
    elif kind in (2, 3):  # plain shapes: distractors that are no object
        shapes = np.ascontiguousarray(base)
        for _ in range(int(random.integers(10, 60))):
            colour = tuple(float(value) for value in random.uniform(20, 240, 3))
            x, y = int(random.integers(width)), int(random.integers(height))
            size = int(random.uniform(6, 150))
            if kind == 2:
                cv2.ellipse(shapes, (x, y), (size, size // 2 + 2), random.uniform(0, 180), 0, 360, colour, -1)
            else:
                points = (random.uniform(-size, size, (4, 2)) + np.array([x, y])).astype(np.int32)
                cv2.fillConvexPoly(shapes, cv2.convexHull(points), colour)
        base = 0.55 * base + 0.45 * shapes
    return np.asarray(base.clip(0, 255), np.uint8)


def _camera(random: np.random.Generator, canvas: npt.NDArray[np.float32]) -> Picture:
    """Exposure, a little blur now and then, and sensor noise."""
    picture: npt.NDArray[Any] = canvas * np.float32(random.uniform(0.85, 1.12)) + np.float32(random.uniform(-12, 12))
    if random.random() < 0.3:
        picture = cv2.GaussianBlur(picture, (0, 0), random.uniform(0.4, 0.9))
    # One noise plane for all channels: it is the costliest part of a scene.
    noise = random.standard_normal(canvas.shape[:2], dtype=np.float32) * np.float32(random.uniform(0, 3))
    return np.asarray((picture + noise[..., None]).clip(0, 255), np.uint8)


def coco_annotations(scene: Scene, image_id: int, first_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """The scene's instances as COCO annotations (run-length masks, xywh boxes).

    ``category_ids[label]`` is COCO's id of a class index.
    """
    annotations: list[dict[str, Any]] = []
    for offset, (mask, label) in enumerate(zip(scene.masks(), scene.labels, strict=True)):
        encoded = rle.encode(np.asfortranarray(mask, np.uint8))
        annotations.append(
            {
                "id": first_id + offset,
                "image_id": image_id,
                "category_id": category_ids[label],
                "segmentation": {"size": encoded["size"], "counts": encoded["counts"].decode()},
                "bbox": [float(value) for value in rle.toBbox(encoded)],
                "area": int(rle.area(encoded)),
                "iscrowd": 0,
            }
        )
    return annotations


def coco_dataset(
    scenes: Sequence[tuple[str, Scene]], class_names: Sequence[str], category_ids: Sequence[int]
) -> dict[str, Any]:
    """A COCO-format dataset of named scenes: ``(file name, scene)`` pairs."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (file_name, scene) in enumerate(scenes, start=1):
        height, width = scene.owner.shape
        images.append({"id": image_id, "file_name": file_name, "height": height, "width": width})
        annotations += coco_annotations(scene, image_id, len(annotations) + 1, category_ids)
    categories = [{"id": id_, "name": name} for id_, name in zip(category_ids, class_names, strict=True)]
    return {"images": images, "annotations": annotations, "categories": categories}
