"""PyTorch inference with an mmdet detector, on arrays; and what it finds on a whole set, kept as an artifact."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from helpers import artifacts
from helpers.detector.detections import Detections
from helpers.detector.evaluation import EvaluationSet, coco_results, with_progress
from helpers.detector.models import inside_the_model, preprocessing_of, weights_digest
from helpers.detector.preprocess import NetworkInput, prepare, read_picture
from helpers.errors import CourseError

if TYPE_CHECKING:
    from mmdet.models.detectors import BaseDetector

__all__ = ["NothingFoundError", "detect", "detect_prepared", "first_with_objects", "results_on"]

# What the kept results depend on beside weights, configuration and pictures.
_VERSIONS = ("torch", "mmcv-full", "mmdet", "numpy", "opencv-python-headless")
_CODE = ("detections.py", "evaluation.py", "inference.py", "pipeline.py", "preprocess.py")


class NothingFoundError(CourseError):
    """The detector finds no object in any of the pictures."""


def detect_prepared(detector: BaseDetector, prepared: NetworkInput, *, rescale: bool) -> Detections:
    """Run the detector on one prepared picture.

    ``rescale`` True gives boxes and masks in the picture's own pixels, False in those of the network's input (masks
    then cover the resized picture, without the padding). A detector without a mask head gives masks of no pixels.

    Raises:
        helpers.detector.models.InferenceError: a module stops, for want of an implementation on this device, say.
    """
    device = next(detector.parameters()).device
    tensor = torch.from_numpy(prepared.tensor).to(device)
    with torch.no_grad(), inside_the_model():
        result = detector(return_loss=False, rescale=rescale, img=[tensor], img_metas=[[prepared.meta()]])[0]
    return Detections.from_mmdet(result, prepared.picture_shape if rescale else prepared.resized_shape)


def detect(
    detector: BaseDetector, picture: npt.NDArray[np.uint8], input_shape: tuple[int, int] | None = None
) -> Detections:
    """Run the detector on one BGR picture (H, W, 3) uint8, prepared as its config says, or for another ``input_shape``
    (height, width); boxes and masks in pixels of the picture."""
    prepared = prepare(picture, input_shape, preprocessing_of(detector))
    return detect_prepared(detector, prepared, rescale=True)


def first_with_objects(
    detector: BaseDetector, files: Sequence[Path], *, least_score: float = 0.5
) -> npt.NDArray[np.uint8]:
    """The first of the pictures (BGR) in which the detector finds an object with at least this score; says which it
    passes over.

    Raises:
        NothingFoundError: there is none.
        helpers.detector.preprocess.ImageError: a picture cannot be read.
    """
    preprocessing = preprocessing_of(detector)
    for file in files:
        picture = read_picture(file)
        prepared = prepare(picture, preprocessing=preprocessing)
        if len(detect_prepared(detector, prepared, rescale=False).above(least_score)):
            return picture
        print(f"{file.name}: no object with a score of at least {least_score}, so another picture is taken")
    raise NothingFoundError(
        f"the detector finds nothing in {len(files)} pictures", "give a picture of something that it knows"
    )


def results_on(
    dataset: EvaluationSet, detector: BaseDetector, path: Path, input_shape: tuple[int, int] | None = None
) -> list[dict[str, Any]]:
    """What the detector finds on every picture of a set, as COCO result entries (see ``evaluation.coco_results``).
    ``input_shape`` is as for :func:`detect`.

    They are kept in ``path`` (JSON) with what they were made from, and read from there as long as weights,
    configuration (the settings of tests also as they are in memory), preprocessing, pictures, versions of the libraries
    and the code of this folder are the same.
    """

    def build(temporary: Path) -> None:
        results: list[dict[str, Any]] = []
        for image_id, picture in with_progress(dataset, "PyTorch"):
            results += coco_results(detect(detector, picture, input_shape), image_id, dataset.category_ids)
        temporary.write_text(json.dumps(results))

    here = Path(__file__).parent
    preprocessing = preprocessing_of(detector)
    inputs = {
        "weights": weights_digest(detector),
        "configuration": str(detector.cfg.model),
        "settings": [str(getattr(part, "test_cfg", None)) for part in (detector, *detector.children())],
        "preprocessing": (preprocessing.at(input_shape) if input_shape else preprocessing).to_json(),
        "pictures": dataset.digest(),
        "versions": {name: importlib.metadata.version(name) for name in _VERSIONS},
        "code": {name: artifacts.file_input(here / name) for name in _CODE},
    }
    results: list[dict[str, Any]] = json.loads(artifacts.make(path, inputs, build).read_text())
    return results
