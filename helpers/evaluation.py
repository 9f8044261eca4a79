"""Average precision through pycocotools, for detections of any runtime."""

from __future__ import annotations

import contextlib
import io
import json
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
from helpers.detections import Detections
from helpers.errors import CourseError
from helpers.preprocess import read_picture

__all__ = ["AveragePrecision", "DatasetError", "EvaluationSet", "coco_results", "evaluate", "load_set", "score"]


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


def load_set(folder: Path | None = None) -> EvaluationSet:
    """The validation set in ``folder`` (default ``data/val``): pictures beside an ``annotations.json``.

    Raises:
        DatasetError: no such file, or it is not COCO's JSON.
    """
    folder = folder or paths.DATA / "val"
    file = folder / "annotations.json"
    try:
        content = json.loads(file.read_text())
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


def coco_results(found: Detections, image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """Detections of one picture as COCO result entries; masks must have the size of the picture."""
    results = []
    for box, confidence, label, mask in zip(found.boxes, found.scores, found.labels, found.masks, strict=True):
        encoded = rle.encode(np.asfortranarray(mask, np.uint8))
        x1, y1, x2, y2 = (float(value) for value in box)
        results.append(
            {
                "image_id": image_id,
                "category_id": category_ids[int(label)],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": float(confidence),
                "segmentation": encoded,
            }
        )
    return results


def score(dataset: EvaluationSet, results: Sequence[Mapping[str, Any]]) -> AveragePrecision:
    """AP of COCO result entries over the pictures of ``dataset``. No result at all gives 0."""
    if not results:
        return AveragePrecision(0.0, 0.0, 0.0, 0.0, len(dataset))
    found: dict[str, tuple[float, float]] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for kind in ("bbox", "segm"):
            entries = [dict(entry) for entry in results]
            if kind == "segm":
                # loadRes takes areas from the box where there is one, and would sort masks into the wrong size bins.
                for entry in entries:
                    del entry["bbox"]
            evaluator = COCOeval(dataset.truth, dataset.truth.loadRes(entries), kind)
            evaluator.params.imgIds = list(dataset.image_ids)
            evaluator.evaluate()
            evaluator.accumulate()
            evaluator.summarize()
            found[kind] = float(evaluator.stats[0]), float(evaluator.stats[1])
    return AveragePrecision(
        found["bbox"][0], found["segm"][0], found["bbox"][1], found["segm"][1], pictures=len(dataset)
    )


def evaluate(
    dataset: EvaluationSet,
    detect: Callable[[npt.NDArray[np.uint8]], Detections],
    *,
    description: str = "evaluating",
) -> AveragePrecision:
    """AP of ``detect`` (a BGR picture to its detections, in the picture's own pixels), with a progress bar."""
    results: list[dict[str, Any]] = []
    for image_id, picture in tqdm(dataset.pictures(), total=len(dataset), desc=description, unit="picture"):
        results += coco_results(detect(picture), image_id, dataset.category_ids)
    return score(dataset, results)
