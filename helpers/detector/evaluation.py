"""Average precision through pycocotools, for detections of any runtime."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tqdm import tqdm

from helpers import paths
from helpers.artifacts import read_json, sha256_file
from helpers.detector.detections import Detections
from helpers.detector.preprocess import read_picture
from helpers.errors import CourseError

__all__ = [
    "AveragePrecision",
    "DatasetError",
    "EvaluationSet",
    "box_ap_by_class",
    "box_ap_by_size",
    "coco_results",
    "evaluate",
    "instances_by_class",
    "load_set",
    "score",
    "with_progress",
]


class DatasetError(CourseError):
    """A COCO-format dataset is missing, damaged, or has no such picture."""


@dataclass(frozen=True)
class AveragePrecision:
    """COCO's AP@[.50:.95] over all areas, 0 to 1, for boxes and masks, and their AP at IoU 0.50."""

    box: float
    mask: float
    box_50: float
    mask_50: float
    pictures: int

    def __str__(self) -> str:
        return f"box AP {self.box:.3f}, mask AP {self.mask:.3f} on {self.pictures} pictures"


@dataclass(frozen=True)
class EvaluationSet:
    """Pictures with COCO annotations. ``category_ids[label]`` is COCO's id of the model's class index."""

    folder: Path
    truth: COCO
    image_ids: tuple[int, ...]
    category_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.image_ids)

    def path(self, image_id: int) -> Path:
        return self.folder / self.truth.loadImgs([image_id])[0]["file_name"]

    def pictures(self) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
        """(image id, BGR picture), in the set's order."""
        for image_id in self.image_ids:
            yield image_id, read_picture(self.path(image_id))

    def head(self, count: int) -> EvaluationSet:
        """The first ``count`` pictures only."""
        return EvaluationSet(self.folder, self.truth, self.image_ids[:count], self.category_ids)

    def spread(self, count: int) -> EvaluationSet:
        """``count`` pictures (all, if there are fewer) at equal distances, the first and the last among them."""
        places = sorted(set(np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(int).tolist()))
        return EvaluationSet(self.folder, self.truth, tuple(self.image_ids[i] for i in places), self.category_ids)

    def digest(self) -> str:
        """The SHA-256 of the annotations and of the pictures: the set as a recorded input of an artifact."""
        files = [self.folder / "annotations.json", *map(self.path, self.image_ids)]
        return hashlib.sha256("".join(map(sha256_file, files)).encode()).hexdigest()


def load_set(folder: Path | None = None, annotations: Path | None = None) -> EvaluationSet:
    """The validation set in ``folder`` (default ``data/val``): pictures beside an ``annotations.json``, or with the
    annotations in another file.

    Raises:
        DatasetError: no such file, or it is not COCO's JSON.
    """
    folder = folder or paths.DATA / "val"
    file = annotations or folder / "annotations.json"
    try:
        content = read_json(file)
        truth = COCO()
        truth.dataset = content
        with contextlib.redirect_stdout(io.StringIO()):
            truth.createIndex()
        categories = tuple(category["id"] for category in content["categories"])
        return EvaluationSet(folder, truth, tuple(image["id"] for image in content["images"]), categories)
    except OSError:
        raise DatasetError(f"there is no {file}", "check out the repository again, or name another folder") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{file} is not a COCO annotation file", "check out the repository again") from error


def with_progress(dataset: EvaluationSet, description: str) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """``dataset.pictures()`` with a progress bar."""
    yield from tqdm(dataset.pictures(), total=len(dataset), desc=description, unit="picture", mininterval=2)


def coco_results(found: Detections, image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """Detections of one picture as COCO result entries (JSON can hold them); masks must have the picture's size, or no
    pixels, and then the entries are boxes only."""
    results = []
    for box, confidence, label, mask in zip(found.boxes, found.scores, found.labels, found.masks, strict=True):
        x1, y1, x2, y2 = (float(value) for value in box)
        entry: dict[str, Any] = {
            "image_id": image_id,
            "category_id": category_ids[int(label)],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": float(confidence),
        }
        if found.has_masks:
            encoded = rle.encode(np.asfortranarray(mask, np.uint8))
            entry["segmentation"] = {**encoded, "counts": encoded["counts"].decode()}
        results.append(entry)
    return results


def score(dataset: EvaluationSet, results: Sequence[Mapping[str, Any]]) -> AveragePrecision:
    """AP of COCO result entries over the pictures of ``dataset``; those of other pictures do not count. No result at
    all gives 0, and boxes alone a mask AP of 0."""
    chosen = set(dataset.image_ids)
    results = [entry for entry in results if entry["image_id"] in chosen]
    if not results:
        return AveragePrecision(0.0, 0.0, 0.0, 0.0, len(dataset))
    boxes = _accumulated(dataset, results, "bbox").stats
    masks = _accumulated(dataset, results, "segm").stats if "segmentation" in results[0] else (0.0, 0.0)
    return AveragePrecision(float(boxes[0]), float(masks[0]), float(boxes[1]), float(masks[1]), len(dataset))


def _accumulated(dataset: EvaluationSet, results: Sequence[Mapping[str, Any]], kind: str) -> COCOeval:
    entries = [dict(entry) for entry in results]
    if kind == "segm":
        # loadRes takes areas from the box where there is one, and would sort masks into the wrong size bins.
        for entry in entries:
            del entry["bbox"]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = COCOeval(dataset.truth, dataset.truth.loadRes(entries), kind)
        evaluator.params.imgIds = list(dataset.image_ids)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator


def box_ap_by_class(dataset: EvaluationSet, results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Box AP@[.50:.95] of every class that has an example in the set, by class name. Needs at least one result."""
    evaluator = _accumulated(dataset, results, "bbox")
    # precision: IoU thresholds x recalls x classes x areas x detection limits; area 0 is "all", limit -1 is 100.
    precision = evaluator.eval["precision"][:, :, :, 0, -1]
    names = [category["name"] for category in dataset.truth.loadCats(evaluator.params.catIds)]
    return {
        name: float(precision[:, :, index].mean())
        for index, name in enumerate(names)
        if (precision[:, :, index] > -1).all()
    }


def box_ap_by_size(dataset: EvaluationSet, results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Box AP of small (area < 32² pixels), medium and large (area > 96²) objects. Needs at least one result."""
    stats = _accumulated(dataset, results, "bbox").stats
    return {"small": float(stats[3]), "medium": float(stats[4]), "large": float(stats[5])}


def instances_by_class(dataset: EvaluationSet) -> dict[str, int]:
    """How many annotated objects of each class the set has; classes without one are absent."""
    annotations = dataset.truth.loadAnns(dataset.truth.getAnnIds(imgIds=list(dataset.image_ids)))
    names = {category["id"]: category["name"] for category in dataset.truth.dataset["categories"]}
    return dict(Counter(names[annotation["category_id"]] for annotation in annotations))


def evaluate(
    dataset: EvaluationSet,
    detect: Callable[[npt.NDArray[np.uint8]], Detections],
    *,
    description: str = "evaluating",
) -> AveragePrecision:
    """AP of ``detect`` (a BGR picture to its detections, in the picture's own pixels), with a progress bar."""
    results: list[dict[str, Any]] = []
    for image_id, picture in with_progress(dataset, description):
        results += coco_results(detect(picture), image_id, dataset.category_ids)
    return score(dataset, results)
