"""Emoji of the COCO classes, from freely licensed icon sets, as RGBA sprites.

The sets come from the npm registry in Iconify's JSON form (one JSON file a set, one SVG body an icon), are verified by
SHA-256, and are rasterised with resvg. Nothing of them is stored in the repository but what is drawn into ``data/``.
"""

from __future__ import annotations

import json
import subprocess
import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from helpers.artifacts import make, sha256_file, whole_file
from helpers.errors import CourseError

__all__ = ["CLASS_EMOJI", "ICON_SETS", "IconSet", "IconSetError", "Sprite", "load_sprites", "sprite_archive"]

# The longest side of a sprite before it is scaled into a scene: the largest object in a scene, so never enlarged.
SPRITE_SIZE = 416


class IconSetError(CourseError):
    """An icon set cannot be fetched, or is not the pinned file."""


@dataclass(frozen=True)
class IconSet:
    """One icon set: its npm package (pinned by version and SHA-256 of the archive) and its licence."""

    name: str
    version: str
    sha256: str
    licence: str
    author: str

    @property
    def package(self) -> str:
        return f"@iconify-json/{self.name}"


ICON_SETS = (
    IconSet(
        "noto",
        "1.2.9",
        "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
        "Apache-2.0",
        "Google (Noto Emoji)",
    ),
    IconSet(
        "noto-v1",
        "1.2.5",
        "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
        "Apache-2.0",
        "Google (Noto Emoji, 2017 design)",
    ),
    IconSet(
        "twemoji",
        "1.2.5",
        "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
        "CC-BY-4.0",
        "Twitter and contributors (Twemoji)",
    ),
    IconSet(
        "fluent-emoji",
        "1.2.7",
        "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b",
        "MIT",
        "Microsoft (Fluent Emoji)",
    ),
    IconSet(
        "fluent-emoji-flat",
        "1.2.6",
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        "MIT",
        "Microsoft (Fluent Emoji, flat)",
    ),
    IconSet(
        "emojione",
        "1.2.3",
        "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
        "CC-BY-4.0",
        "Emoji One / EmojiTwo",
    ),
)

# COCO class -> emoji, as code points. A class without a fitting emoji (parking meter, bench, baseball bat, oven, ...)
# is absent: the head keeps its place and never sees an example.
CLASS_EMOJI: dict[str, tuple[str, ...]] = {
    "person": ("1f9cd", "1f469", "1f468", "1f6b6"),
    "bicycle": ("1f6b2",),
    "car": ("1f697", "1f698"),
    "motorcycle": ("1f3cd", "1f6f5"),
    "airplane": ("2708", "1f6e9"),
    "bus": ("1f68c", "1f68d"),
    "train": ("1f682", "1f686"),
    "truck": ("1f69a", "1f69b"),
    "boat": ("26f5", "1f6a4"),
    "traffic light": ("1f6a6", "1f6a5"),
    "fire hydrant": ("1f9ef",),
    "stop sign": ("1f6d1",),
    "bird": ("1f426", "1f99c"),
    "cat": ("1f408", "1f431"),
    "dog": ("1f415", "1f436"),
    "horse": ("1f40e", "1f434"),
    "sheep": ("1f411",),
    "cow": ("1f404", "1f42e"),
    "elephant": ("1f418",),
    "bear": ("1f43b",),
    "zebra": ("1f993",),
    "giraffe": ("1f992",),
    "backpack": ("1f392",),
    "umbrella": ("2614", "1f302"),
    "handbag": ("1f45c", "1f45b"),
    "tie": ("1f454",),
    "suitcase": ("1f9f3",),
    "frisbee": ("1f94f",),
    "skis": ("1f3bf",),
    "snowboard": ("1f3c2",),
    "sports ball": ("26bd", "1f3c0"),
    "kite": ("1fa81",),
    "skateboard": ("1f6f9",),
    "surfboard": ("1f3c4",),
    "tennis racket": ("1f3f8",),
    "bottle": ("1f37e",),
    "wine glass": ("1f377",),
    "cup": ("2615", "1f964"),
    "fork": ("1f374",),
    "knife": ("1f52a",),
    "spoon": ("1f944",),
    "bowl": ("1f963", "1f35c"),
    "banana": ("1f34c",),
    "apple": ("1f34e", "1f34f"),
    "sandwich": ("1f96a",),
    "orange": ("1f34a",),
    "broccoli": ("1f966",),
    "carrot": ("1f955",),
    "hot dog": ("1f32d",),
    "pizza": ("1f355",),
    "donut": ("1f369",),
    "cake": ("1f370", "1f382"),
    "chair": ("1fa91",),
    "couch": ("1f6cb",),
    "potted plant": ("1fab4",),
    "bed": ("1f6cf",),
    "toilet": ("1f6bd",),
    "tv": ("1f4fa",),
    "laptop": ("1f4bb",),
    "mouse": ("1f5b1",),
    "keyboard": ("2328",),
    "cell phone": ("1f4f1",),
    "book": ("1f4d5", "1f4d7"),
    "clock": ("1f570", "23f0"),
    "vase": ("1f3fa",),
    "scissors": ("2702",),
    "teddy bear": ("1f9f8",),
    "toothbrush": ("1faa5",),
}


@dataclass(frozen=True)
class Sprite:
    """One drawing of one class: (H, W, 4) uint8 RGBA, cropped to its opaque part, not premultiplied."""

    class_name: str
    icon_set: str
    rgba: npt.NDArray[np.uint8]


def sprite_archive(path: Path) -> Path:
    """Fetch the icon sets, rasterise every emoji of :data:`CLASS_EMOJI`, and keep the result at ``path`` (.npz).

    Made once; later calls return at once. Needs the npm client and its registry the first time.

    Raises:
        IconSetError: npm is not installed, a set cannot be fetched, or its content is not the pinned one.
    """
    inputs = {
        "sets": {icon_set.package: [icon_set.version, icon_set.sha256] for icon_set in ICON_SETS},
        "emoji": CLASS_EMOJI,
        "size": SPRITE_SIZE,
    }
    return make(path, inputs, _build_archive)


def load_sprites(path: Path) -> list[Sprite]:
    """Read what :func:`sprite_archive` wrote, ordered by class and set."""
    sprites = []
    with np.load(path) as archive:
        for key in sorted(archive.files):
            class_name, icon_set, _ = key.split("|")
            sprites.append(Sprite(class_name, icon_set, _decode_rgba(archive[key])))
    return sprites


def _decode_rgba(png: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    decoded = cv2.imdecode(png, cv2.IMREAD_UNCHANGED)
    assert decoded is not None  # our own PNGs, or resvg's
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGRA2RGBA), np.uint8)


def _build_archive(path: Path) -> None:
    encoded: dict[str, npt.NDArray[np.uint8]] = {}
    sets: dict[str, Any] = {}
    # Half of the sets carry no code points, but all of them name an emoji after its Unicode name.
    names_of: defaultdict[str, set[str]] = defaultdict(set)
    with tempfile.TemporaryDirectory() as folder:
        for icon_set in tqdm(ICON_SETS, desc="icon sets", unit="set"):
            sets[icon_set.name], names = _read_set(_fetch(icon_set, Path(folder)))
            for code, name in names.items():
                names_of[code].add(name)
    for set_name, icons in tqdm(sets.items(), desc="rasterising", unit="set"):
        for class_name, code, rgba in _rasterise_set(icons, names_of):
            png = cv2.imencode(".png", cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA))[1]
            encoded[f"{class_name}|{set_name}|{code}"] = png
    # An open stream, because numpy would append .npz to a temporary name that lacks it.
    with whole_file(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **encoded)  # type: ignore[arg-type]


def _fetch(icon_set: IconSet, folder: Path) -> Path:
    package = f"{icon_set.package}@{icon_set.version}"
    command = ["npm", "pack", "--silent", "--pack-destination", str(folder), package]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise IconSetError("npm is not installed", "install Node.js; only rebuilding the scenes needs it") from None
    except subprocess.CalledProcessError as error:
        raise IconSetError(f"npm could not fetch {package}", "go online and try again") from error
    archive = folder / f"iconify-json-{icon_set.name}-{icon_set.version}.tgz"
    if sha256_file(archive) != icon_set.sha256:
        raise IconSetError(f"{package} is not the pinned file (its SHA-256 differs)", "do not use it; check the pin")
    return archive


def _read_set(archive: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The set's icons.json, and code point -> icon name."""
    with tarfile.open(archive) as tar:

        def content(name: str) -> Any:
            member = tar.extractfile(f"package/{name}")
            assert member is not None
            return json.load(member)

        return content("icons.json"), content("chars.json")


def _rasterise_set(
    icons: dict[str, Any], names_of: Mapping[str, set[str]]
) -> Iterator[tuple[str, str, npt.NDArray[np.uint8]]]:
    import resvg_py  # only rebuilding the scenes needs it

    for class_name, codes in CLASS_EMOJI.items():
        for code in codes:
            candidates = sorted(names_of.get(code, set()) | names_of.get(f"{code}-fe0f", set()))
            name = next((name for name in candidates if name in icons["icons"]), None)
            if name is None:
                continue  # older sets lack newer emoji
            icon = icons["icons"][name]
            width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
            svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
            png = resvg_py.svg_to_bytes(svg_string=svg, width=SPRITE_SIZE)
            rgba = _decode_rgba(np.frombuffer(bytes(png), np.uint8))
            rows, columns = (np.flatnonzero((rgba[..., 3] >= 128).any(axis=axis)) for axis in (1, 0))
            yield class_name, code, rgba[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
