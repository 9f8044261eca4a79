"""What a smaller ``nms_pre`` costs in average precision: one table, one JSON.

    python scripts/measure_nms_pre.py --output evidence/nms_pre_cpu.json

``nms_pre`` is how many boxes of each pyramid level the RPN hands to its NMS. TensorRT looks at the 5000 best boxes of a
picture and drops the others without a word (helpers/tensorrt/limits.py says when), so a model whose nms_pre times its
levels is more than that is exported with a smaller one. Measured with PyTorch's inference on a CPU, on ``--pictures``
pictures at equal distances in the validation set, scaled into ``--input``. A dozen pictures show what gets lost, not
the third digit of an AP: for that give all of them, and the input at which the model is used. Recorded in
evidence/nms_pre_cpu.json (embedded model, 12 pictures, 400 x 608): box AP 0.451, 0.447 and 0.446 with 2000,
1000 and 500.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import numpy.typing as npt
import torch

from helpers import evidence
from helpers.detector import evaluation
from helpers.detector.detections import Detections
from helpers.detector.inference import detect_prepared
from helpers.detector.preprocess import prepare
from helpers.errors import CourseError
from helpers.tensorrt import operator_support
from scripts.ap_study import add_options, chosen, from_one, write

if TYPE_CHECKING:
    from mmdet.models import BaseDetector


def most_boxes() -> int:
    """How many boxes of a picture TensorRT's NMS looks at."""
    rules = operator_support.row("", "NonMaxSuppression", "10").conditions
    return int(next(rule["most"] for rule in rules if rule["rule"] == "boxes"))


def boxes_for_nms(detector: BaseDetector, input_shape: tuple[int, int]) -> int:
    """How many boxes of a picture the RPN's NMS gets."""
    most = detector.rpn_head.test_cfg.nms_pre
    with torch.no_grad():
        levels = detector.extract_feat(torch.zeros(1, 3, *input_shape))
    counts = [
        level.shape[2] * level.shape[3] * priors
        for level, priors in zip(levels, detector.rpn_head.prior_generator.num_base_priors, strict=True)
    ]
    return sum(min(count, most) if most > 0 else count for count in counts)


def measure(
    detector: BaseDetector, nms_pre: int, pictures: evaluation.EvaluationSet, input_shape: tuple[int, int]
) -> dict[str, Any]:
    """One row of the table. Leaves the detector with that nms_pre."""
    for config in (detector.test_cfg.rpn, detector.rpn_head.test_cfg):
        config.update(nms_pre=nms_pre)

    def detect(picture: npt.NDArray[np.uint8]) -> Detections:
        return detect_prepared(detector, prepare(picture, input_shape), rescale=True)

    boxes = boxes_for_nms(detector, input_shape)
    start = time.perf_counter()
    result = evaluation.evaluate(pictures, detect, description=f"nms_pre {nms_pre}")
    return {
        "nms_pre": nms_pre,
        "boxes a picture": boxes,
        "all seen by TensorRT": boxes <= most_boxes(),
        "box AP": round(result.box, 4),
        "mask AP": round(result.mask, 4),
        "seconds a picture": round((time.perf_counter() - start) / len(pictures), 2),
    }


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, pictures=12)
    parser.add_argument("--nms-pre", type=from_one, nargs="+", default=(2000, 1000, 500), help="values to measure")
    parser.add_argument("--commit", help="the commit, for a copy without a repository")
    given = parser.parse_args(words)
    name, detector, pictures = chosen(given)
    rows = [measure(detector, nms_pre, pictures, tuple(given.input)) for nms_pre in given.nms_pre]
    head = evidence.head("AP by the number of boxes that the RPN hands to its NMS, PyTorch on a CPU", of=given.commit)
    write(given, head, name, pictures, rows)


if __name__ == "__main__":
    try:
        main()
    except CourseError as error:
        sys.exit(str(error))
