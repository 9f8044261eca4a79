"""Build, run and align the engines of this course on this machine: one table, one JSON.

    python scripts/verify_tensorrt.py --output evidence/tensorrt_<gpu>.json

Needs an NVIDIA GPU, full TensorRT (8.4 to 11), pycuda, nvcc and TensorRT's headers (``TensorRT_ROOT``). Builds the
plugins and engines in FP32 (static and dynamic batch) and FP16 (where the version takes its precision from a flag),
compares each on every demo picture with ONNX Runtime under the contract of ``helpers.parity``, and measures latency,
throughput and GPU memory, one picture in flight. A case that fails is reported, and the next one runs: the dynamic one
needs a graph exported for dynamic batches (chapter 06), and is aligned picture by picture. Exits with 0 if all that ran
agreed, 1 if anything failed, 2 if the machine cannot run it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from helpers import models, ort_runner, parity, paths, preprocess
from helpers import tensorrt_runner as trt
from helpers.artifacts import write_text
from helpers.errors import CourseError
from helpers.export import dynamic_options, make_onnx

BATCH = 2
SHAPE = (3, preprocess.INPUT_HEIGHT, preprocess.INPUT_WIDTH)


def options(case: str) -> trt.BuildOptions:
    """The build options of one case: "fp32", "fp32-dynamic" or "fp16"."""
    if case == "fp16":
        return trt.BuildOptions("fp16")
    if case == "fp32-dynamic":
        return trt.BuildOptions(profile=(("input", ((1, *SHAPE), (1, *SHAPE), (BATCH, *SHAPE))),))
    return trt.BuildOptions()


def summary(result: parity.Parity) -> dict[str, Any]:
    """What the record keeps of a comparison."""
    return {
        "agrees": result.agrees,
        "matched": len(result.pairs),
        "without a partner": len(result.only_first) + len(result.only_second),
        "worst box, px": float(result.box_error.max(initial=0)),
        "worst score": float(result.score_error.max(initial=0)),
        "worst mask IoU": float(result.mask_overlap.min(initial=1)),
        "broken by": result.broken_by,
    }


def measure(runner: trt.TensorRTRunner, tensor: np.ndarray[Any, Any], repeats: int) -> dict[str, float]:
    """Host to host: pictures in, every output (masks too) back in host memory."""
    batch = {"input": tensor}
    for _ in range(3):
        runner.run(batch)
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        runner.run(batch)
        times.append(1e3 * (time.perf_counter() - begun))
    begun = time.perf_counter()
    count = sum(1 for _ in runner.run_many([batch] * repeats))
    return {
        "median ms": statistics.median(times),
        "pictures a second": count * len(tensor) / (time.perf_counter() - begun),
    }


def verify(case: str, library: Path, repeats: int) -> dict[str, Any]:
    """Build, align and measure one case; its errors are part of the answer."""
    extra: dict[str, Any] = {"label": "dynamic", **dynamic_options("mmcv")} if case == "fp32-dynamic" else {}
    begun = time.perf_counter()
    onnx_path = make_onnx("emoji", "mmcv", **extra)
    engine = trt.make_engine("emoji", onnx_path, options(case), label=case, plugins=library)
    answer: dict[str, Any] = {"build s": time.perf_counter() - begun, "engine MB": engine.stat().st_size / 1e6}
    reference = ort_runner.OnnxRunner(make_onnx("emoji", "standard"))
    with trt.TensorRTRunner(engine) as runner:
        free, _ = trt.device_memory()
        answer["pictures"] = {}
        for path in sorted((paths.DATA / "demo").glob("*.jpg")):
            prepared = preprocess.prepare(preprocess.read_picture(path))
            found = parity.compare(reference.detect_prepared(prepared), runner.detect_prepared(prepared))
            answer["pictures"][path.stem] = summary(found)
        answer |= measure(runner, prepared.tensor, repeats)
        answer["GPU MB of buffers"] = (free - trt.device_memory()[0]) / 1e6
    answer["agrees"] = all(picture["agrees"] for picture in answer["pictures"].values())
    return answer


def table(cases: dict[str, dict[str, Any]]) -> str:
    """The cases as text, one line each."""
    lines = [f"{'case':14} {'agrees':8} {'ms':>9} {'per s':>8}  remark"]
    for case, answer in cases.items():
        verdict = "failed" if "error" in answer else "yes" if answer["agrees"] else "NO"
        milliseconds, rate = (
            f"{answer[key]:.2f}" if key in answer else "-" for key in ("median ms", "pictures a second")
        )
        broken = next((p["broken by"] for p in answer.get("pictures", {}).values() if p["broken by"]), "")
        lines.append(f"{case:14} {verdict:8} {milliseconds:>9} {rate:>8}  {answer.get('error', broken)}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=paths.EVIDENCE / "tensorrt.json", help="where the record goes")
    parser.add_argument(
        "--cases", nargs="+", default=["fp32", "fp32-dynamic", "fp16"], help="which of the three to run"
    )
    parser.add_argument("--repeats", type=int, default=50)
    given = parser.parse_args(arguments)
    if reason := trt.why_not():
        print(f"Cannot verify here: {reason}", file=sys.stderr)
        return 2
    try:
        library = trt.build_plugin_library()
    except CourseError as error:
        print(f"Cannot verify here: {error}", file=sys.stderr)
        return 2
    cases: dict[str, dict[str, Any]] = {}
    for case in given.cases:
        print(f"--- {case}", flush=True)
        try:
            cases[case] = verify(case, library, given.repeats)
        except Exception as error:  # each case is reported; one that fails must not hide the others
            cases[case] = {"agrees": False, "error": f"{type(error).__name__}: {error}"}
    record = {
        "what": "TensorRT engines of the emoji model against ONNX Runtime",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": trt.machine(),
        "note": "wall clock, host to host with all masks; FP16 is held to the FP32 contract and may break it",
        "model": models.model_spec("emoji").name,
        "cases": cases,
    }
    write_text(given.output, json.dumps(record, indent=1) + "\n")
    print(table(cases), f"written to {given.output}", sep="\n")
    return 0 if all(answer["agrees"] for answer in cases.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
