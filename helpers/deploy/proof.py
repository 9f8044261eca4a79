"""A model of one's own, proven: exported, compared with PyTorch by the contract, and written down in a folder.

::

    model.onnx          the graph, and beside it what it was made from: what is there is not exported again
    preprocessing.json  what a picture goes through, and the classes' names in the order of the labels
    settings.json       a verdict for each setting of the config
    parity.json         each picture's comparison, average precision, and where a disagreement begins
    report.html         the same to read, with the pictures side by side; needs no network
    bundle/             a detector without mmdet (:mod:`helpers.deploy.bundle`), of graphs that it can hold
"""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from helpers import artifacts, paths
from helpers.compare import parity
from helpers.compare.parity import CONTRACT, Parity, compare, comparison_figure, same_average_precision
from helpers.compare.search import NoMasksError, search
from helpers.deploy.bundle import make_bundle, versions
from helpers.detector.evaluation import AveragePrecision, EvaluationSet, coco_results, load_set, score, with_progress
from helpers.detector.inference import detect_prepared
from helpers.detector.models import ModelSpec, load_detector, preprocessing_of, read_config
from helpers.detector.pipeline import as_the_pipeline, read_pipeline
from helpers.detector.preprocess import (
    PICTURE_ENDINGS,
    NetworkInput,
    Preprocessing,
    denormalise,
    prepare,
    read_picture,
)
from helpers.errors import CourseError
from helpers.export import exporter
from helpers.export.settings import require_known_type, require_supported, verdicts
from helpers.graph import detect
from helpers.graph.file import load_onnx
from helpers.graph.onnx_runtime import OnnxRunner
from helpers.graph.runner import RunnerError

if TYPE_CHECKING:
    from mmdet.models.detectors import BaseDetector

__all__ = ["Proof", "ProofError", "find_pictures", "prove"]

#: So many pictures are drawn side by side in the report, those that disagree first.
_DRAWN = 8


class ProofError(CourseError):
    """There is nothing to compare: no pictures, or the model finds nothing in them."""


@dataclass(frozen=True)
class Proof:
    """What was found. rows: each comparison by the name of its picture. ap: of PyTorch and of the graph, if there were
    annotations. found: the first node that computes something else and its origin, if a search found one."""

    folder: Path
    rows: tuple[tuple[str, Parity], ...]
    ap: tuple[AveragePrecision, AveragePrecision] | None = None
    found: str = ""

    @property
    def agrees(self) -> bool:
        """Whether every comparison holds, and AP where it was measured."""
        same = self.ap is None or same_average_precision(*self.ap)
        return same and all(result.agrees for _, result in self.rows)


def find_pictures(named: Sequence[Path]) -> list[Path]:
    """The pictures named, and those in the folders named; the demo scenes if none is.

    Raises:
        ProofError: there is no such file or folder, or no picture in it.
    """
    found: list[Path] = []
    for path in named or (paths.DATA / "demo",):
        if not path.exists():
            raise ProofError(f"there is no picture or folder {path}", "check the path")
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in PICTURE_ENDINGS) if path.is_dir() else [path]
        if not inside:
            raise ProofError(
                f"there is no picture in the folder {path}", f"put one there ({', '.join(sorted(PICTURE_ENDINGS))})"
            )
        found += inside
    return found


def prove(
    spec: ModelSpec,
    folder: Path,
    *,
    flavour: str = "standard",
    pictures: Sequence[Path] = (),
    annotations: Path | None = None,
    batch: int = 1,
    without: Sequence[str] = (),
    trust: bool = False,
    announce: Callable[[str], None] = print,
) -> Proof:
    """Export a model and compare the graph in ONNX Runtime with PyTorch; writes the folder described above.

    pictures: files or folders; the demo scenes if there are none. annotations: a COCO file about pictures that lie
    beside it, or in the folder of the first of ``pictures``: AP of both. batch: from 2 on the graph takes any batch,
    and batches of so many pictures are compared with the pictures one by one. without: patches to leave out of the
    export, to see what they are for. trust: see :func:`helpers.detector.models.load_detector`.

    Raises:
        ProofError: no picture, or nothing found in any: an empty comparison proves nothing.
        helpers.export.settings.UnsupportedSettingError: the model is not supported. Before anything is exported.
        And what reading the config, the checkpoint and the pictures, and the export raise.
    """
    files = find_pictures(pictures)
    given = read_config(spec.config)
    require_known_type(given)
    preprocessing = read_pipeline(given)
    dataset = _dataset(annotations, pictures) if annotations else None
    read = [read_picture(file) for file in files]
    announce(f"{spec.config.name}: {given.model.type}, input {spec.input_shape or preprocessing.input_shape}")
    detector = load_detector(spec, trust=trust)
    preprocessing = preprocessing_of(detector)
    _write(folder / "preprocessing.json", {**preprocessing.to_json(), "classes": list(detector.CLASSES)})
    settings = [
        {"setting": v.key, "value": repr(v.value), "verdict": v.verdict, "why": v.sentence, "next step": v.next_step}
        for v in verdicts(detector, flavour)
    ]
    _write(folder / "settings.json", settings)
    require_supported(detector, flavour)

    masks = "lean" if detector.with_mask and detector.roi_head.test_cfg.mask_thr_binary == 0.5 else "full"
    file = _export(detector, folder / "model.onnx", flavour, preprocessing, masks, batch, without, announce)

    def searched(one: NetworkInput) -> str:
        """The search looks at whole masks of one picture."""
        options = (flavour, preprocessing, "full", 1, without, announce)
        full = file if (masks, batch) == ("full", 1) else _export(detector, folder / "searched.onnx", *options)
        return _search(detector, full, one)

    runner = OnnxRunner(file)
    inputs = [prepare(picture, preprocessing=preprocessing) for picture in read]
    rows = []
    for name, one in zip((path.name for path in files), inputs, strict=True):
        expected = detect_prepared(detector, one, rescale=False)
        try:
            found = detect.detect_prepared(runner, one)
        except RunnerError as error:
            announce(f"{name}: the graph stops, searching for the first node that differs")
            raise ProofError(
                f"the graph stops on {name} ({error.problem}); {searched(one)}", error.next_step
            ) from error
        rows.append((name, compare(expected, found, class_names=detector.CLASSES)))
        announce(f"{name}: {rows[-1][1]}")
    if not any(len(result.pairs) or not result.agrees for _, result in rows):
        raise ProofError(
            f"the model finds nothing with a score of {CONTRACT.score_floor} in {len(files)} pictures, so that nothing "
            "was compared",
            "give pictures of what it knows with --images",
        )
    rows += _batches(runner, inputs, batch, announce)
    ap = _average_precision(detector, runner, dataset, preprocessing, announce) if dataset else None
    proof = Proof(folder, tuple(rows), ap)
    bad = next((i for i, (_, result) in enumerate(rows[: len(files)]) if not result.agrees), None)
    if bad is not None:
        announce(f"{files[bad].name} disagrees: searching for the first node that differs")
        proof = dataclasses.replace(proof, found=searched(inputs[bad]))
        announce(proof.found)
    if masks == "lean" and flavour == "standard" and not without:
        make_bundle(folder / "bundle", detector, model=file, largest_batch=batch)
    same = [as_the_pipeline(given, path, one) for path, one in zip(files, inputs, strict=True)]
    _write(folder / "parity.json", _record(proof, spec, flavour, batch, files, same))
    figures = _figures(detector, runner, preprocessing, files, inputs, rows)
    artifacts.write_text(folder / "report.html", _page(proof, spec, detector, preprocessing, settings, same, figures))
    return proof


def _write(path: Path, content: Any) -> None:
    artifacts.write_text(path, json.dumps(content, indent=1) + "\n")


def _dataset(annotations: Path, pictures: Sequence[Path]) -> EvaluationSet:
    first = pictures[0] if pictures else annotations.parent
    return load_set(first if first.is_dir() else first.parent, annotations)


def _export(
    detector: BaseDetector,
    path: Path,
    flavour: str,
    preprocessing: Preprocessing,
    masks: Any,
    batch: int,
    without: Sequence[str],
    announce: Callable[[str], None],
) -> Path:
    options: dict[str, Any] = {"input_shape": [batch, 3, *preprocessing.input_shape], "masks": masks}
    applied: Sequence[str] = exporter.default_patches(flavour)
    if batch > 1:
        dynamic = exporter.dynamic_options(flavour)
        applied, options["dynamic_axes"] = dynamic["applied"], dynamic["dynamic_axes"]
    left_out = [name for name in applied if any(name == one or name.split("_")[0] == one for one in without)]
    if len(left_out) != len(without):
        raise ProofError(
            f"not all of {', '.join(without)} are patches of this export", f"choose from {', '.join(applied)}"
        )
    applied = [name for name in applied if name not in left_out]
    inputs = exporter.export_inputs(detector, flavour, applied, **options)

    def build(temporary: Path) -> None:
        exporter.export_onnx(detector, temporary, flavour, applied=applied, **options)

    return artifacts.make(path, inputs, build, announce=announce)


def _batches(
    runner: OnnxRunner, inputs: Sequence[NetworkInput], batch: int, announce: Callable[[str], None]
) -> Iterator[tuple[str, Parity]]:
    if batch == 1:
        return
    single = [detect.detect_prepared(runner, one) for one in inputs]
    for start in range(0, len(inputs), batch):
        together = detect.detect_batch(runner, inputs[start : start + batch])
        for i, found in enumerate(together, start):
            result = compare(single[i], found)
            announce(f"picture {i + 1} in a batch of {len(together)}: {result}")
            yield f"picture {i + 1} alone and in a batch of {len(together)}", result


def _average_precision(
    detector: BaseDetector,
    runner: OnnxRunner,
    dataset: EvaluationSet,
    preprocessing: Preprocessing,
    announce: Callable[[str], None],
) -> tuple[AveragePrecision, AveragePrecision]:
    ids = _category_ids(detector, dataset)
    results: tuple[list[Any], list[Any]] = ([], [])
    for image_id, picture in with_progress(dataset, "PyTorch and ONNX Runtime"):
        one = prepare(picture, preprocessing=preprocessing)
        results[0].extend(coco_results(detect_prepared(detector, one, rescale=True), image_id, ids))
        results[1].extend(coco_results(detect.detect_prepared(runner, one, rescale=True), image_id, ids))
    first, second = (score(dataset, each) for each in results)
    announce(f"PyTorch: {first}; the graph: {second}")
    return first, second


def _category_ids(detector: BaseDetector, dataset: EvaluationSet) -> tuple[int, ...]:
    """COCO's id of each class: by name; in the file's order if no name is among the file's."""
    categories = dataset.truth.dataset["categories"]
    by_name = {category["name"]: category["id"] for category in categories}
    if set(detector.CLASSES) <= set(by_name):
        return tuple(by_name[name] for name in detector.CLASSES)
    if len(categories) == len(detector.CLASSES) and not set(detector.CLASSES) & set(by_name):
        return dataset.category_ids
    missing = next(name for name in detector.CLASSES if name not in by_name)
    raise ProofError(f"the annotations have no category {missing!r}", "name the classes as they do, with --classes")


def _search(detector: BaseDetector, file: Path, prepared: NetworkInput) -> str:
    try:
        report = search(detector, load_onnx(file), prepared)
    except NoMasksError as error:
        return error.problem
    if report.found is None:
        return "no node of the graph differs: the disagreement comes of what is done with its outputs"
    return f"{report.found}; its inputs agree: {', '.join(report.found.inputs)}"


# --- what is written down ---------------------------------------------------------------------------------------------


def _row(name: str, result: Parity) -> dict[str, Any]:
    columns = parity.table([(name, result)])
    row = {key: values[0] for key, values in columns.items()}
    # JSON has no NaN.
    row = {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}
    return {**row, "broken by": result.broken_by}


def _record(
    proof: Proof, spec: ModelSpec, flavour: str, batch: int, files: Sequence[Path], same: Sequence[bool | None]
) -> dict[str, Any]:
    rows = [_row(name, result) for name, result in proof.rows]
    for row, as_pipeline in zip(rows, same, strict=False):
        row["as the config's pipeline"] = as_pipeline
    assert spec.checkpoint is not None
    return {
        "agrees": proof.agrees,
        "contract": dataclasses.asdict(CONTRACT),
        "flavour": flavour,
        "batch": batch,
        "config": artifacts.file_input(spec.config),
        "checkpoint": artifacts.file_input(spec.checkpoint),
        "graph": artifacts.file_input(proof.folder / "model.onnx"),
        "versions": versions(),
        "rows": rows,
        "average precision": [dataclasses.asdict(one) for one in proof.ap] if proof.ap else None,
        "first difference": proof.found or None,
    }


def _figures(
    detector: BaseDetector,
    runner: OnnxRunner,
    preprocessing: Preprocessing,
    files: Sequence[Path],
    inputs: Sequence[NetworkInput],
    rows: Sequence[tuple[str, Parity]],
) -> list[tuple[str, bytes]]:
    """(name, PNG) of PyTorch and the graph side by side."""
    drawn = sorted(range(len(files)), key=lambda i: rows[i][1].agrees)[:_DRAWN]
    figures = []
    for i in drawn:
        one = inputs[i]
        height, width = one.resized_shape
        seen = np.ascontiguousarray(denormalise(one, preprocessing)[:height, :width])
        sides = detect_prepared(detector, one, rescale=False), detect.detect_prepared(runner, one)
        figure = comparison_figure(seen, *sides, names=("PyTorch", "ONNX Runtime"), class_names=detector.CLASSES)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=70)
        plt.close(figure)
        figures.append((files[i].name, buffer.getvalue()))
    return figures


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font:16px/1.5 system-ui,sans-serif; max-width:1200px; margin:2rem auto; padding:0 1rem; }}
table {{ border-collapse:collapse; }}
td, th {{ border-bottom:1px solid #d1d9e0; padding:.3rem .6rem; text-align:left; }}
img {{ max-width:100%; }} .good {{ color:#1a7f37; }} .bad {{ color:#cf222e; }}
</style></head><body>
<h1>{title}</h1>
<p class="{mood}"><b>{verdict}</b></p>
{body}
</body></html>
"""


def _table(rows: Sequence[dict[str, Any]]) -> str:
    table: str = pd.DataFrame(rows).to_html(index=False, border=0, na_rep="", float_format="{:.3g}".format)
    return table


def _page(
    proof: Proof,
    spec: ModelSpec,
    detector: BaseDetector,
    preprocessing: Preprocessing,
    settings: Sequence[dict[str, Any]],
    same: Sequence[bool | None],
    figures: Sequence[tuple[str, bytes]],
) -> str:
    matched = sum(len(result.pairs) for _, result in proof.rows)
    parts = [
        f"<p>{html.escape(spec.config.name)}: {type(detector).__name__}, {len(detector.CLASSES)} classes, {matched} "
        "pairs of detections compared.</p>"
    ]
    if proof.found:
        parts.append(f"<p class='bad'>The first difference: {html.escape(proof.found)}</p>")
    parts += ["<h2>Parity</h2>", _table([_row(name, result) for name, result in proof.rows])]
    if proof.ap:
        parts.append(f"<h2>Average precision</h2><p>PyTorch: {proof.ap[0]}. The graph: {proof.ap[1]}.</p>")
    counts = f"{same.count(True)} of {len(same)} pictures have, bit for bit, the pixels of the config's own pipeline"
    counts += f"; {same.count(None)} were scaled to fit the input" if None in same else ""
    counts += f"; <b class='bad'>{same.count(False)} differ</b>" if False in same else ""
    parts += ["<h2>Preprocessing</h2>", f"<p>{counts}.</p>", _table([preprocessing.to_json()])]
    for name, png in figures:
        picture = base64.b64encode(png).decode()
        what = f"Detections of PyTorch and of ONNX Runtime in {html.escape(name)}, side by side"
        parts.append(f'<h2>{html.escape(name)}</h2><img alt="{what}" src="data:image/png;base64,{picture}">')
    parts += ["<h2>Settings</h2>", _table(settings)]
    verdict = "PyTorch and the graph agree" if proof.agrees else "PyTorch and the graph DISAGREE"
    return _PAGE.format(
        title=f"Proof of {html.escape(spec.name)}",
        mood="good" if proof.agrees else "bad",
        verdict=verdict,
        body="\n".join(parts),
    )
