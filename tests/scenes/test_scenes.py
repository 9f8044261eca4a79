from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as rle

from helpers import paths
from helpers.compat import ensure_torchvision
from helpers.detector.evaluation import load_set
from helpers.scenes import emoji_art
from helpers.scenes.emoji_art import CLASS_EMOJI, IconSetError, Sprite, sprite_archive
from helpers.scenes.render import (
    DEMO_STYLES,
    USUAL_SHAPE,
    VALIDATION_STYLES,
    SceneStyle,
    coco_dataset,
    render_scene,
    style_for,
)

ensure_torchvision()

from mmdet.datasets import CocoDataset  # noqa: E402

NAMES = CocoDataset.CLASSES
SHAPE = (200, 304)
STYLE = SceneStyle(instances=(12, 12), size=(16, 90), shape=SHAPE)


@pytest.fixture(scope="module")
def sprites():
    """Discs and bars of plain colours: the renderer does not care what is drawn on a sprite."""
    made = []
    for index, name in enumerate(("cat", "donut", "car")):
        rgba = np.zeros((64, 96, 4), np.uint8)
        rgba[..., index] = 255
        rgba[8:56, 8:88, 3] = 255
        made.append(Sprite(name, "test", rgba))
    return made


def scene_of(sprites, seed, style=STYLE):
    return render_scene(seed, sprites, NAMES, style)


def test_a_scene_is_a_function_of_its_seed(sprites):
    first, second, other = scene_of(sprites, 1), scene_of(sprites, 1), scene_of(sprites, 2)
    np.testing.assert_array_equal(first.picture, second.picture)
    np.testing.assert_array_equal(first.owner, second.owner)
    assert not np.array_equal(first.picture, other.picture)


@pytest.mark.parametrize("seed", range(8))
def test_masks_are_disjoint_nonempty_and_tight_in_their_boxes(sprites, seed):
    scene = scene_of(sprites, seed)
    masks, boxes = scene.masks(), scene.boxes()
    assert masks.sum(axis=0).max() <= 1
    assert len(masks) == len(scene.labels) == len(boxes) > 0
    assert set(scene.labels) <= {NAMES.index(name) for name in ("cat", "donut", "car")}
    for mask, box in zip(masks, boxes, strict=True):
        assert mask.sum() >= 40
        x1, y1, x2, y2 = box.astype(int)
        assert mask[y1:y2, x1:x2].sum() == mask.sum()
        assert mask[y1].any()
        assert mask[y2 - 1].any()
        assert mask[:, x1].any()
        assert mask[:, x2 - 1].any()


def test_what_lies_in_front_takes_the_pixels(sprites):
    """One sprite of each class, all covering the middle: the last one drawn owns it whole."""
    scene = scene_of(sprites[:1], 3, SceneStyle(instances=(30, 30), size=(60, 90), shape=SHAPE))
    assert len(scene.labels) < 30  # some are hidden beyond recognition and leave the annotations
    assert scene.owner.max() == len(scene.labels) - 1


def test_coco_annotations_say_what_the_masks_say(sprites):
    scene = scene_of(sprites, 5)
    dataset = coco_dataset([("a.jpg", scene), ("b.jpg", scene)], NAMES, tuple(range(101, 181)))
    count = len(scene.labels)
    assert [a["id"] for a in dataset["annotations"]] == list(range(1, 2 * count + 1))
    assert {a["image_id"] for a in dataset["annotations"][count:]} == {2}
    for annotation, mask, label in zip(dataset["annotations"], scene.masks(), scene.labels, strict=False):
        decoded = rle.decode({**annotation["segmentation"], "counts": annotation["segmentation"]["counts"].encode()})
        np.testing.assert_array_equal(decoded.astype(bool), mask)
        assert annotation["category_id"] == 101 + label
        assert annotation["area"] == mask.sum()


@pytest.mark.parametrize("shape", [(304, 200), (120, 120), (60, 300), (40, 40)])
def test_a_scene_has_the_shape_of_its_style(sprites, shape):
    scene = scene_of(sprites, 4, replace(STYLE, shape=shape))
    assert scene.picture.shape == (*shape, 3)
    assert scene.owner.shape == shape
    assert scene.boxes().max(axis=0)[2] <= shape[1]
    assert scene.boxes().max(axis=0)[3] <= shape[0]


@given(st.tuples(st.integers(200, 4000), st.integers(200, 4000)))
def test_a_usual_scene_of_another_shape_keeps_its_objects_in_proportion(shape):
    usual, style = SceneStyle(), style_for(shape)
    area, usual_area = shape[0] * shape[1], USUAL_SHAPE[0] * USUAL_SHAPE[1]
    assert style == replace(usual, size=style.size, shape=shape)
    low, high = style.size
    # The smallest are no smaller than usual in the picture and in the network's input.
    seen = low * min(USUAL_SHAPE[0] / shape[0], USUAL_SHAPE[1] / shape[1])
    assert min(low, seen) == pytest.approx(usual.size[0])
    # The largest take no larger share of the picture than usual, and no sprite is enlarged.
    assert high <= usual.size[1]
    assert high**2 / area == pytest.approx(usual.size[1] ** 2 / max(area, usual_area))


def test_the_usual_shape_has_the_usual_style():
    assert style_for(USUAL_SHAPE) == SceneStyle()


@pytest.mark.parametrize("folder", ["demo", "val"])
def test_the_shipped_pictures_have_the_shapes_of_their_styles(folder):
    """In the order of the seeds: the files, and what the annotations say of them."""
    styles = DEMO_STYLES if folder == "demo" else {f"{index:03d}": s for index, s in enumerate(VALIDATION_STYLES)}
    dataset = load_set(paths.DATA / folder)
    images = dataset.truth.loadImgs(list(dataset.image_ids))
    assert [image["id"] for image in images] == list(range(1, len(styles) + 1))
    assert [image["file_name"] for image in images] == [f"{name}.jpg" for name in styles]
    assert {image["file_name"] for image in images} == {file.name for file in dataset.folder.glob("*.jpg")}
    for image, style in zip(images, styles.values(), strict=True):
        assert (image["height"], image["width"]) == style.shape
        with Image.open(dataset.folder / image["file_name"]) as picture:
            assert picture.size == style.shape[::-1]


def test_the_shipped_sets_hold_pictures_of_many_shapes():
    demo = {name: style.shape for name, style in DEMO_STYLES.items()}
    assert demo == {
        **dict.fromkeys(("crowd", "tiny", "huge", "twins"), (800, 1216)),
        "shelf": (768, 1024),
        "tower": (1024, 768),
        "square": (640, 640),
        "thumbnail": (240, 320),
    }
    shapes = [style.shape for style in VALIDATION_STYLES]
    assert shapes[:48] == [(800, 1216)] * 48  # the scenes of the earlier set keep their seeds
    others = shapes[48:]
    assert len(others) == len(set(others)) == 12
    assert any(height == width for height, width in others)
    assert {(height > 800, width > 1216) for height, width in others} == {
        (a, b) for a in (False, True) for b in (False, True)
    }


def test_every_emoji_class_is_a_coco_class():
    assert set(CLASS_EMOJI) <= set(NAMES)
    assert len(CLASS_EMOJI) == 68


def test_fetching_without_npm_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(IconSetError, match="npm is not installed"):
        sprite_archive(tmp_path / "sprites.npz")
    assert not (tmp_path / "sprites.npz").exists()


def test_other_bytes_under_the_name_of_an_icon_set_are_refused(monkeypatch, tmp_path):
    def packed(command, **_):
        for icon_set in emoji_art.ICON_SETS:
            (Path(command[4]) / f"iconify-json-{icon_set.name}-{icon_set.version}.tgz").write_bytes(b"other")

    monkeypatch.setattr(emoji_art.subprocess, "run", packed)
    with pytest.raises(IconSetError, match=r"is not the pinned file \(its SHA-256 differs\)"):
        sprite_archive(tmp_path / "sprites.npz")
