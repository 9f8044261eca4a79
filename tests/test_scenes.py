from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as rle

from helpers.compat import ensure_torchvision
from helpers.emoji_art import CLASS_EMOJI, IconSetError, Sprite, sprite_archive
from helpers.scenes import SceneStyle, coco_dataset, render_scene

ensure_torchvision()

from mmdet.datasets import CocoDataset  # noqa: E402

NAMES = CocoDataset.CLASSES
STYLE = SceneStyle(instances=(12, 12), size=(16, 90))


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
    return render_scene(seed, sprites, NAMES, style, shape=(200, 304))


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
    scene = scene_of(sprites[:1], 3, SceneStyle(instances=(30, 30), size=(60, 90)))
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


def test_every_emoji_class_is_a_coco_class():
    assert set(CLASS_EMOJI) <= set(NAMES)
    assert len(CLASS_EMOJI) == 68


def test_fetching_without_npm_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(IconSetError, match="npm is not installed"):
        sprite_archive(tmp_path / "sprites.npz")
    assert not (tmp_path / "sprites.npz").exists()
