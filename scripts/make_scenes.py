"""Render the course's pictures: the demo scenes and the validation set, deterministic by seed.

Fetches the icon sets from the npm registry once (see helpers/scenes/emoji_art.py).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import cv2
from tqdm import tqdm

from helpers import paths
from helpers.artifacts import write_bytes, write_text
from helpers.compat import ensure_torchvision
from helpers.errors import CourseError
from helpers.scenes.emoji_art import load_sprites, sprite_archive
from helpers.scenes.render import DEMO_STYLES, VALIDATION_STYLES, Scene, coco_dataset, render_scene

ensure_torchvision()

from mmdet.datasets import CocoDataset  # noqa: E402

# COCO's 80 category ids in class order: the 90 of the paper less those that the 2014 release never annotated.
UNUSED_IDS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
CATEGORY_IDS = tuple(id_ for id_ in range(1, 91) if id_ not in UNUSED_IDS)
FIRST_VALIDATION_SEED = 500_000


def save_picture(path: Path, scene: Scene, quality: int) -> None:
    write_bytes(path, cv2.imencode(".jpg", scene.picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=paths.DATA, help="where demo/ and val/ go (default: data/)")
    parser.add_argument("--demo-seed", type=int, default=7, help="seed of the demo scenes (default: 7)")
    options = parser.parse_args()
    names = CocoDataset.CLASSES
    sprites = load_sprites(sprite_archive(paths.build_root() / "emoji_sprites.npz"))
    demo = []
    for name, style in DEMO_STYLES.items():
        scene = render_scene(options.demo_seed, sprites, names, style)
        save_picture(options.output / "demo" / f"{name}.jpg", scene, 92)
        demo.append((f"{name}.jpg", scene))
    write_text(options.output / "demo" / "annotations.json", json.dumps(coco_dataset(demo, names, CATEGORY_IDS)))
    validation = []
    for index, style in enumerate(tqdm(VALIDATION_STYLES, desc="validation scenes", unit="scene")):
        scene = render_scene(FIRST_VALIDATION_SEED + index, sprites, names, style)
        save_picture(options.output / "val" / f"{index:03d}.jpg", scene, 88)
        validation.append((f"{index:03d}.jpg", scene))
    write_text(options.output / "val" / "annotations.json", json.dumps(coco_dataset(validation, names, CATEGORY_IDS)))
    fewest = min(len(scene.labels) for _, scene in validation)
    print(f"{len(validation)} validation scenes, at least {fewest} instances each, and {len(demo)} demo scenes")


if __name__ == "__main__":
    try:
        main()
    except CourseError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("interrupted; every file that is there is whole")
