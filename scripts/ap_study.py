"""What the scripts share that measure average precision on a part of a validation set: options, choice, record."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from helpers import evidence
from helpers.detector import evaluation, models
from helpers.detector.preprocess import INPUT_HEIGHT, INPUT_WIDTH

if TYPE_CHECKING:
    from mmdet.models.detectors import BaseDetector


def from_one(text: str) -> int:
    """A whole number from 1 on, as counts and sizes are."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no whole number from 1 on")
    return int(text)


def add_options(parser: argparse.ArgumentParser, pictures: int | None) -> None:
    """Where to write, which model, which pictures (by default how many; None: all), scaled into which input."""
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--model", choices=models.MODEL_NAMES, help="default: $COURSE_MODEL, else emoji")
    parser.add_argument("--dataset", type=Path, help="pictures with COCO's annotations.json; default data/val")
    parser.add_argument(
        "--pictures", type=from_one, default=pictures, help=f"how many of them; default {pictures or 'all'}"
    )
    size = (INPUT_HEIGHT, INPUT_WIDTH)
    parser.add_argument("--input", type=from_one, nargs=2, default=size, metavar=("HEIGHT", "WIDTH"))


def chosen(given: argparse.Namespace) -> tuple[str, BaseDetector, evaluation.EvaluationSet]:
    """The model's name, the model, and the pictures, at equal distances in their set."""
    name = given.model or models.current_model_name()
    pictures = evaluation.load_set(given.dataset)
    return name, models.load_detector(name), pictures.spread(given.pictures or len(pictures))


def write(
    given: argparse.Namespace,
    head: Mapping[str, Any],
    name: str,
    pictures: evaluation.EvaluationSet,
    rows: Sequence[Mapping[str, Any]],
) -> None:
    """The record into its file, the rows as a table onto the terminal."""
    record = {**head, "model": name, "pictures": len(pictures), "input": list(given.input), "rows": rows}
    evidence.save(given.output, record)
    print(pd.DataFrame(rows).to_string(index=False))
