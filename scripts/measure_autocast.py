"""Which nodes other tools keep in FP32: NVIDIA's AutoCast and onnxconverter-common's automatic mixed precision, on the
graphs of chapter 07, beside its own plans and patches: one table, one JSON.

    python scripts/measure_autocast.py prepare build/autocast
    other/bin/python scripts/measure_autocast.py run build/autocast
    python scripts/measure_autocast.py record build/autocast --output evidence/autocast_cpu.json

The first and the last step need the course's environment. The second needs the tools', which the course does not depend
on and cannot share (AutoCast asks for an older onnx). It has neither mmdet nor mmcv; about 7 GB, for AutoCast's package
brings PyTorch for CUDA along, though everything here runs on a CPU:

    python -m venv other
    other/bin/pip install "nvidia-modelopt[onnx]==0.47.0" onnxconverter-common==1.16.0 matplotlib==3.11.2

``prepare`` writes ``full.onnx`` and ``lean.onnx`` (embedded model, ``standard``, boxes moved by their class as in
chapter 07) and ``feeds.npz`` (the demo picture ``crowd``) into a new folder. ``run`` gives each tool a graph and the
feeds, nothing else, and writes what it makes (AutoCast holds every tensor of the graph at once: 7 GB for the full one).
``record`` counts nodes and casts, compares the detections with FP32's by the course's agreement, and makes the course's
rows by the functions that chapter 07 calls. Detections are compared twice: of the tool's graph in ONNX Runtime, which
on a CPU computes most of it in FP32 between casts, and of the source graph in the course's simulation with the nodes in
FP32 that the tool left there. AP over the validation scenes is of the second kind, for each way that has made a graph
of ``full.onnx``: the rows of ``measure_half_precision.py`` are measured in the same way, which takes 2 minutes a row.

Automatic mixed precision has the course's agreement as its test. It ends at the first graph that ONNX Runtime refuses;
a second row counts such a graph as a failed attempt and goes on until ``--patience`` is over. That row is of the last
graph that passed.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.metadata
import io
import json
import logging
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, shape_inference

from helpers import artifacts, evidence
from helpers.errors import CourseError
from helpers.half_precision.agreement import Agreement, agreement

if TYPE_CHECKING:
    from helpers.detector.evaluation import EvaluationSet

Array = npt.NDArray[Any]
PICTURE = "crowd"
MASKS = ("full", "lean")
OUTPUTS = ("dets", "labels")
PACKAGES = ("nvidia-modelopt", "onnxconverter-common", "onnx", "onnxruntime-gpu", "torch")
#: Seconds after which the search of automatic mixed precision is stopped.
PATIENCE = 300.0


# --- counting ---------------------------------------------------------------------------------------------------------


def casts_added(source: onnx.ModelProto, converted: onnx.ModelProto) -> int:
    """How many Cast nodes more a converted graph has than its source."""
    before, after = (sum(node.op_type == "Cast" for node in model.graph.node) for model in (source, converted))
    return after - before


def kept_in_fp32(source: onnx.ModelProto, converted: onnx.ModelProto) -> list[str]:
    """The source's nodes with float32 results, in graph order, whose namesakes in the converted graph have one too.

    Constants are left out: they compute nothing. Nodes that the tool renamed are not found.
    """
    from helpers.half_precision.simulation import float_tensors

    floats = float_tensors(source)
    names = [n.name for n in source.graph.node if n.op_type != "Constant" and floats.intersection(n.output)]
    graph = shape_inference.infer_shapes(converted).graph
    single = {
        value.name
        for value in (*graph.value_info, *graph.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }
    still = {node.name for node in converted.graph.node if single.intersection(node.output)}
    return [name for name in names if name in still]


def described(result: Agreement) -> dict[str, Any]:
    """An agreement with FP32 as the record holds it."""
    return {
        "matched": result.matched,
        "alone": result.alone,
        "median box error, px": round(result.box, 3) if result.matched else None,
        "not finite in dets": result.non_finite,
        "passes": result.within(),
    }


# --- the first step, in the course's environment ----------------------------------------------------------------------


def prepare(folder: Path) -> None:
    """Write the graphs and the feeds into ``folder``."""
    from scripts.measure_half_precision import Rows

    if folder.exists() and any(folder.iterdir()):
        raise CourseError(f"{folder} is not empty", "name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    for masks in MASKS:
        rows = Rows("emoji", False, masks)
        artifacts.write_bytes(folder / f"{masks}.onnx", rows.plain.SerializeToString())
    with artifacts.whole_file(folder / "feeds.npz") as temporary:
        np.savez(temporary, allow_pickle=False, **rows.feeds)


# --- the second step, in the tools' environment -----------------------------------------------------------------------


def autocast(path: Path, feeds: Path) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """What AutoCast makes of a graph with its own settings, and its own count of nodes."""
    from modelopt.onnx.autocast import convert_to_mixed_precision

    words: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: words.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("modelopt.onnx.autocast")
    logger.addHandler(handler)
    try:
        model = convert_to_mixed_precision(
            str(path), "fp16", keep_io_types=True, calibration_data=str(feeds), providers=["cpu"]
        )
    finally:
        logger.removeHandler(handler)
    return model, {"the tool's words": [text for text in words if text.startswith("Converted ")][-1]}


def mixed(
    path: Path, feeds: Path, *, go_on: bool, patience: float = PATIENCE
) -> tuple[onnx.ModelProto | None, dict[str, Any]]:
    """What automatic mixed precision makes of a graph, and how many graphs it tried.

    go_on: count a graph that ONNX Runtime refuses as a failed attempt. patience: s; the last graph that passed, None if
    there was none, is the result of a search that takes longer.
    """
    from onnxconverter_common import auto_mixed_precision as tool

    source, arrays = onnx.load(path), dict(np.load(feeds))
    names = [output.name for output in source.graph.output]
    run = tool.get_tensor_values_using_ort
    start, attempts, refused = time.perf_counter(), 0, 0
    tried: onnx.ModelProto | None = None
    best: onnx.ModelProto | None = None

    def attempt(model: onnx.ModelProto, feeds: Mapping[str, Array], outputs: Any = None, options: Any = None) -> Any:
        nonlocal attempts, refused, tried
        if outputs is not None:
            return run(model, feeds, outputs, options)
        if time.perf_counter() - start > patience:
            raise TimeoutError
        attempts, tried = attempts + 1, model
        try:
            return run(model, feeds, outputs, options)
        except Exception:
            refused += 1
            if not go_on:
                raise
            return None

    def same(reference: Sequence[Array], found: Sequence[Array] | None) -> bool:
        nonlocal best
        if found is None:
            return False
        ours, theirs = (dict(zip(names, arrays, strict=True)) for arrays in (reference, found))
        passes = agreement(ours, theirs).within()
        # The tool first compares the reference with itself.
        if passes and found is not reference:
            best = tried
        return passes

    about: dict[str, Any] = {}
    tool.get_tensor_values_using_ort = attempt
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            best = tool.auto_convert_mixed_precision(source, arrays, same, keep_io_types=True)
    except TimeoutError:
        about["stopped after, s"] = patience
    except Exception as error:
        about["refused"] = str(error).strip()[:300]
        best = None
    finally:
        tool.get_tensor_values_using_ort = run
    # The first run is the reference's.
    return best, {**about, "attempts": attempts - 1, "attempts refused by ONNX Runtime": refused}


def run(folder: Path, patience: float) -> None:
    """Give the prepared graphs to each tool, and write a row and what was made into ``folder``; rows there are kept."""
    tools: dict[str, Callable[[Path, Path], tuple[onnx.ModelProto | None, dict[str, Any]]]] = {
        "AutoCast": autocast,
        "automatic mixed precision": lambda path, feeds: mixed(path, feeds, go_on=False),
        "automatic mixed precision, going on": lambda path, feeds: mixed(path, feeds, go_on=True, patience=patience),
    }
    for masks in MASKS:
        for name, tool in tools.items():
            path = folder / f"{masks}-{name.replace(',', '').replace(' ', '_')}.json"
            if path.exists():
                continue
            print(f"{name} on {masks}.onnx ...", file=sys.stderr)
            start, worked = time.perf_counter(), time.process_time()
            try:
                model, about = tool(folder / f"{masks}.onnx", folder / "feeds.npz")
            except ImportError as error:
                sys.exit(f"{error.name} is not installed here: this step's environment is described in --help.")
            except FileNotFoundError as error:
                sys.exit(f"{error.filename} is missing: run the prepare step first.")
            seconds = {"search, s": time.perf_counter() - start, "of the processor, s": time.process_time() - worked}
            if model is not None:
                artifacts.write_bytes(path.with_suffix(".onnx"), model.SerializeToString())
            row = {"graph": masks, "way": name, **{key: round(value, 1) for key, value in seconds.items()}, **about}
            artifacts.write_text(path, json.dumps(row))
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    artifacts.write_text(folder / "versions.json", json.dumps(versions))


# --- the third step, in the course's environment ----------------------------------------------------------------------


def simulated_ap(source: onnx.ModelProto, kept: Sequence[str], scenes: EvaluationSet) -> dict[str, float]:
    """AP of a graph in simulation with the nodes ``kept`` in FP32, as the record of chapter 07 has it of others."""
    from helpers.detector import evaluation
    from helpers.graph.detect import detect
    from helpers.graph.onnx_runtime import OnnxRunner
    from helpers.half_precision.simulation import round_results

    runner = OnnxRunner(round_results(source, keep=kept), optimise=False)
    result = evaluation.evaluate(scenes, functools.partial(detect, runner), description=f"{len(kept)} nodes in FP32")
    return {"box AP": round(result.box, 4), "mask AP": round(result.mask, 4)}


def judged(
    source: onnx.ModelProto,
    converted: onnx.ModelProto | None,
    feeds: Mapping[str, Array],
    reference: Mapping[str, Array],
    scenes: EvaluationSet | None = None,
) -> dict[str, Any]:
    """The counts of one converted graph and its agreement with FP32, in ONNX Runtime and in simulation; with scenes, AP
    in simulation."""
    from helpers.graph.cut import run_graph
    from helpers.graph.runner import RunnerError
    from helpers.half_precision.search import Simulation

    result: dict[str, Any] = {"nodes": len(source.graph.node)}
    if converted is None:
        return result
    kept = kept_in_fp32(source, converted)
    result |= {"nodes in FP32": len(kept), "casts added": casts_added(source, converted)}
    try:
        result["in ONNX Runtime"] = described(agreement(reference, run_graph(converted, feeds, OUTPUTS)))
    except RunnerError as error:
        result["in ONNX Runtime"] = {"refused": error.problem}
    result["simulated"] = described(agreement(reference, Simulation(source, feeds, kept).run(kept)))
    if scenes is not None:
        result["simulated"] |= simulated_ap(source, kept, scenes)
    return result


def own_rows(masks: str, scenes: EvaluationSet | None) -> list[dict[str, Any]]:
    """The course's ways on one graph: the plan, the plan and what is still infinite, the patches."""
    from helpers.half_precision.plan import cast_islands
    from scripts.measure_half_precision import Rows

    rows = Rows("emoji", False, masks)
    patched = rows.patched()
    ways: dict[str, tuple[onnx.ModelProto, Callable[[], list[str]]]] = {
        "minimal plan": (rows.plain, rows.plan),
        "minimal plan and what is still infinite": (rows.plain, rows.finite_plan),
        "patches, no island": (patched, list),
    }
    made = []
    for name, (source, search) in ways.items():
        start, worked = time.perf_counter(), time.process_time()
        names = search()
        seconds = {"search, s": time.perf_counter() - start, "of the processor, s": time.process_time() - worked}
        row = {"graph": masks, "way": name, **{key: round(value, 1) for key, value in seconds.items()}}
        made.append({**row, **judged(source, cast_islands(source, names), rows.feeds, rows.reference, scenes)})
    return made


def record(folder: Path, output: Path) -> None:
    """Judge what the tools made, add the course's rows, and write the record."""
    from helpers.detector import evaluation
    from helpers.graph.file import load_onnx
    from scripts.measure_half_precision import Rows

    # The tools' step writes it last.
    if not (folder / "versions.json").exists():
        raise CourseError(f"{folder} has not all results of the tools", "run the run step first, or once more")
    what = (
        "nodes that stay in FP32, and the agreement of the detections with FP32's, on a CPU: in ONNX Runtime, which "
        "computes half precision there by inserting casts and leaves out most of the rounding, and in the course's "
        "simulation, where AP is measured too; one run on a machine that did other work as well"
    )
    machine = {
        "processor": platform.processor() or platform.machine(),
        "tools": artifacts.read_json(folder / "versions.json"),
    }
    whole = evaluation.load_set()
    head = {**evidence.head(what, machine), "model": "emoji", "picture": PICTURE, "scenes of AP": len(whole)}
    rows: list[dict[str, Any]] = []
    for masks in MASKS:
        scenes = whole if masks == "full" else None
        theirs = Rows("emoji", False, masks)
        source = load_onnx(folder / f"{masks}.onnx")
        for path in sorted(folder.glob(f"{masks}-*.json")):
            file = path.with_suffix(".onnx")
            converted = onnx.load(file) if file.exists() else None
            found = judged(source, converted, theirs.feeds, theirs.reference, scenes)
            rows.append({**artifacts.read_json(path), **found})
        rows += own_rows(masks, scenes)
    evidence.save(output, {**head, "rows": rows})


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(dest="step", required=True)
    for name in ("prepare", "run", "record"):
        step = steps.add_parser(name)
        step.add_argument("folder", type=Path)
        if name == "run":
            step.add_argument("--patience", type=float, default=PATIENCE, help="s for a search of mixed precision")
        if name == "record":
            step.add_argument("--output", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args(words)
    if arguments.step == "prepare":
        prepare(arguments.folder)
    elif arguments.step == "run":
        run(arguments.folder, arguments.patience)
    else:
        record(arguments.folder, arguments.output)


if __name__ == "__main__":
    try:
        main()
    except CourseError as error:
        sys.exit(str(error))
