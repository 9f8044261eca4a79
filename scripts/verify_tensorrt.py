"""Build, run and align the engines of this course on this machine: one table, one JSON.

    python scripts/verify_tensorrt.py --quick      the first minute: what is here, and does one small engine run?
    python scripts/verify_tensorrt.py              every case at full size, written to evidence/

Needs an NVIDIA GPU, full TensorRT (8.4 to 11), pycuda, nvcc and TensorRT's headers (``TENSORRT_ROOT``). ``--model``
names the model (default: ``COURSE_MODEL``, else emoji).

``--quick`` prints a line a step, what was found or what to do next: TensorRT, the GPU, the compiler and the headers; a
graph of 256 x 320 pixels, exported and run by ONNX Runtime on one demo picture; the plugins, compiled and registered;
the parser; an FP32 engine; its detections in that picture. A step whose ground is missing is not run, all others are.
Graph, plugins and engine are kept, so that a second call is quick even where the first had to compile. Writes no
record. Exits with 0 if every step passed, else with 1.

Without ``--quick`` it builds the plugins and one engine a case:

- ``fp32``: the ``mmcv`` flavour, batch 1; ``fp32-multi-level``: the same with one MultiLevelRoIAlign a head.
- ``fp32-dynamic``: any batch up to ``--batch``. Aligned in batches of different pictures, each at every place.
- ``fp16``: half precision everywhere that TensorRT likes it. Expected to disagree (chapter 07 says why), so its verdict
  is reported and counts for nothing; that it cannot be built or run does count.
- ``fp16-patched``: the same for the graph without overflow (patches ``helpers.export.exporter.HALF``). Expected to
  agree.
- ``fp16-plan``: the graph of ``fp16`` in half precision but for the nodes of ``--plan``, by layer precisions (where
  TensorRT has them, up to 10).
- ``fp16-typed``: the same plan with the types in the graph, strongly typed (from 9.0 on; the only way from 11 on).

``fp16`` and ``fp16-patched`` take what this TensorRT offers: its FP16 flag where weak typing is not deprecated (up to
10.11), types in the graph from 10.12 on. ``--plan FILE`` is a plan of ``helpers.half_precision.plan`` for the ``mmcv``
flavour of the model, whose node names are not those of the ``standard`` flavour; the GPU cell of chapter 07 saves one.
A minimal plan may lose more than a point of mask AP, and its case then disagrees: chapter 07 tells which infinities a
search for NaN does not see. All cases run by default, those with a plan if there is one; ``--cases`` names the ones
to run. A case that this TensorRT has no way for is reported as not run, and counts for nothing.

Every engine runs the demo pictures, with ``--in-flight`` runs at a time, each on its own stream, and is compared with
ONNX Runtime under the contract of ``helpers.compare.parity``; and it detects the validation set, the course's or that
of ``--dataset``. FP32 agrees if every picture keeps the contract and AP moves by at most 0.1 points. Half precision
cannot keep 1e-4 in every score: it agrees if AP moves by at most 0.5 points; its pictures are in the record. (In
simulated half precision, evidence/half_precision_cpu.json, AP moves by up to 0.4 points where nothing overflows, and
box or mask AP by more than one point where something does.) A model that finds next to nothing in the validation set
(an AP below 0.1 in ONNX Runtime) has no AP to lose, and half precision does not agree on such a set. A case that
fails is reported, and the next one runs.

Measured: ``latency ms``, one run from host memory to host memory with every output (389 MB of masks a picture);
``engine ms``, the engine alone by CUDA events; ``pictures a second`` with several runs in flight; the GPU's memory that
runner, engine and buffers take. Exits with 0 if all cases that ran and count agreed, 1 if one failed or disagreed, 2 if
nothing can be verified here.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import onnx

from helpers import artifacts, evidence, paths
from helpers.compare import parity
from helpers.detector import evaluation, models, preprocess
from helpers.detector.detections import Detections
from helpers.errors import CourseError
from helpers.export.exporter import CORRECT, HALF, dynamic_options, make_onnx
from helpers.graph import detect as through
from helpers.graph import onnx_runtime as ort_runner
from helpers.graph.file import load_onnx
from helpers.half_precision import plan as precision_plan
from helpers.operators import library as plugin_library
from helpers.tensorrt import builder, plugin_graph, runtime
from helpers.tensorrt.runner import EngineRunError, TensorRTRunner

CASES = ("fp32", "fp32-multi-level", "fp32-dynamic", "fp16", "fp16-patched", "fp16-plan", "fp16-typed")
#: The cases that need a plan, and the typing by which each carries it out.
WITH_PLAN: dict[str, builder.Typing] = {"fp16-plan": "weak", "fp16-typed": "strong"}
#: Cases that are there to show a failure: whether they agree does not decide the exit status.
EXPECTED_TO_FAIL = {"fp16": "expected: see chapter 07"}
#: How far AP may move in half precision, from 0 to 1; where it comes from is said above.
HALF_AP_TOLERANCE = 5e-3
DEMO = ("crowd", "huge", "shelf", "square", "thumbnail", "tiny", "tower", "twins")
SHAPE = (3, preprocess.INPUT_HEIGHT, preprocess.INPUT_WIDTH)
#: A reference with less box AP than this (from 0 to 1) shows nothing by keeping it.
LEAST_AP = 0.1
QUICK_SHAPE = (256, 320)


def options(case: str, batch: int, keep_fp32: tuple[str, ...] = ()) -> builder.BuildOptions:
    """The build options of one case."""
    if case in WITH_PLAN:
        return builder.BuildOptions("fp16", keep_fp32=keep_fp32, typing=WITH_PLAN[case])
    if case.startswith("fp16"):
        return builder.BuildOptions("fp16")
    if case == "fp32-dynamic":
        return builder.BuildOptions(profile=through.batch_profile(SHAPE, batch))
    return builder.BuildOptions()


def not_here(case: str) -> str:
    """Why this TensorRT has no way to build a case; empty if it has."""
    typing = WITH_PLAN.get(case)
    return "" if typing is None or typing in builder.typings() else f"this TensorRT has no {typing} typing"


def graph(model: str, case: str) -> Path:
    """The ONNX file of one case, made if it is not there."""
    if case == "fp16-patched":
        return make_onnx(model, "mmcv", label="half-all", applied=(*CORRECT["mmcv"], *HALF))
    if case == "fp32-dynamic":
        return make_onnx(model, "mmcv", label="dynamic", **dynamic_options("mmcv"))
    path = make_onnx(model, "mmcv")
    if case != "fp32-multi-level":
        return path
    inputs = {
        "onnx": artifacts.file_input(path),
        "rewrite": artifacts.file_input(Path(plugin_graph.__file__)),
    }
    return artifacts.make(
        path.with_name("mmcv-multi-level.onnx"),
        inputs,
        lambda made: onnx.save(plugin_graph.one_roi_align_per_head(load_onnx(path)), made),
    )


def groups(names: Sequence[str], largest: int) -> Iterator[tuple[str, ...]]:
    """Batches of different pictures: each picture alone, then each at every place of a batch of 2, ... ``largest``;
    last the first one alone again, in buffers that were larger before."""
    for size in range(1, largest + 1):
        for start in range(len(names)):
            yield tuple(names[(start + place) % len(names)] for place in range(size))
    if largest > 1:
        yield (names[0],)


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


def align(
    runner: TensorRTRunner,
    pictures: Mapping[str, preprocess.NetworkInput],
    expected: Mapping[str, Detections],
    largest: int,
) -> list[dict[str, Any]]:
    """Every picture of every batch of :func:`groups` against the reference's answer for that picture alone."""
    order = list(groups(list(pictures), largest))
    answers = runner.detect_many([[pictures[name] for name in group] for group in order])
    return [
        {"picture": name, "batch": list(group), **summary(parity.compare(expected[name], found))}
        for group, batch in zip(order, answers, strict=True)
        for name, found in zip(group, batch, strict=True)
    ]


def average_precision(
    detector: TensorRTRunner | ort_runner.OnnxRunner, dataset: Path | None, name: str
) -> evaluation.AveragePrecision:
    """AP over the course's validation set, or over another."""

    def detect(picture: np.ndarray[Any, Any]) -> Detections:
        prepared = preprocess.prepare(picture)
        return through.to_picture(through.detect_prepared(detector, prepared), prepared)

    return evaluation.evaluate(evaluation.load_set(dataset), detect, description=name)


def same_ap(case: str, expected: evaluation.AveragePrecision, found: evaluation.AveragePrecision) -> bool:
    """Whether a case's AP is near enough to ONNX Runtime's, for the precision of the case. That half precision lost
    nothing cannot be seen where there was nothing to lose."""
    if case.startswith("fp16") and expected.box < LEAST_AP:
        return False
    tolerance = HALF_AP_TOLERANCE if case.startswith("fp16") else parity.AP_TOLERANCE
    return parity.same_average_precision(expected, found, tolerance)


@functools.cache
def reference(
    model: str, dataset: Path | None
) -> tuple[dict[str, preprocess.NetworkInput], dict[str, Detections], evaluation.AveragePrecision]:
    """The demo pictures, and what ONNX Runtime finds in them and on the validation set."""
    runner = ort_runner.OnnxRunner(make_onnx(model, "standard"))
    read = {name: preprocess.read_picture(paths.DATA / "demo" / f"{name}.jpg") for name in DEMO}
    pictures = {name: preprocess.prepare(picture) for name, picture in read.items()}
    found = {name: through.detect_prepared(runner, prepared) for name, prepared in pictures.items()}
    return pictures, found, average_precision(runner, dataset, "ONNX Runtime")


def measure(
    runner: TensorRTRunner, batch: Sequence[preprocess.NetworkInput], repeats: int, in_flight: int
) -> dict[str, float]:
    """Times of one batch, with its outputs left in pinned host memory."""
    inputs = through.feeds(batch)
    for _ in runner.run_many([inputs] * 3 * in_flight, copy=False):
        pass
    times, engine = [], []
    for _ in range(repeats):
        begun = time.perf_counter()
        runner.run(inputs, copy=False)
        times.append(1e3 * (time.perf_counter() - begun))
        engine.append(runner.engine_ms or 0.0)
    begun = time.perf_counter()
    count = sum(1 for _ in runner.run_many([inputs] * repeats * in_flight, copy=False))
    return {
        "latency ms": statistics.median(times),
        "engine ms": statistics.median(engine),
        "pictures a second": count * len(batch) / (time.perf_counter() - begun),
    }


def open_runner(engine: Path, in_flight: int) -> tuple[TensorRTRunner, int, str]:
    """The runner, how many runs it can have in flight, and why not more: TensorRT 8.4 shares no profile."""
    try:
        return TensorRTRunner(engine, lanes=in_flight), in_flight, ""
    except EngineRunError as error:
        if in_flight == 1:
            raise
        return TensorRTRunner(engine), 1, str(error)


def verify(case: str, library: Path, given: argparse.Namespace, keep_fp32: tuple[str, ...] = ()) -> dict[str, Any]:
    """Build, align and measure one case. Raises what goes wrong."""
    largest = given.batch if case == "fp32-dynamic" else 1
    onnx_path = graph(given.model, case)
    pictures, expected, expected_ap = reference(given.model, given.dataset)
    begun = time.perf_counter()
    engine = builder.make_engine(
        given.model, onnx_path, options(case, given.batch, keep_fp32), label=case, plugins=library
    )
    answer: dict[str, Any] = {"build s": time.perf_counter() - begun, "engine MB": engine.stat().st_size / 1e6}
    free, _ = runtime.device_memory()
    runner, in_flight, remark = open_runner(engine, given.in_flight)
    with runner:
        answer |= {"in flight": in_flight, "remark": remark}
        answer["pictures"] = align(runner, pictures, expected, largest)
        ap = average_precision(runner, given.dataset, case)
        answer["AP"] = {"box": ap.box, "mask": ap.mask, "same": same_ap(case, expected_ap, ap)}
        if expected_ap.box < LEAST_AP:
            remark = f"{remark}; " if remark else ""
            answer["remark"] = f"{remark}a box AP of {expected_ap.box:.3f} in ONNX Runtime shows little: see --dataset"
        batch = list(pictures.values())
        answer["speed"] = {
            str(size): measure(runner, batch[:size], given.repeats, in_flight) for size in range(1, largest + 1)
        }
        answer["GPU MB"] = (free - runtime.device_memory()[0]) / 1e6
    kept = all(picture["agrees"] for picture in answer["pictures"])
    answer["agrees"] = answer["AP"]["same"] and (kept or case.startswith("fp16"))
    return answer


def counts_as_good(case: str, answer: Mapping[str, Any]) -> bool:
    """Whether a case lets the exit status be 0: it agreed, was expected not to, or was not run."""
    return "not run" in answer or answer["agrees"] or (case in EXPECTED_TO_FAIL and "error" not in answer)


def table(cases: dict[str, dict[str, Any]]) -> str:
    """The cases as text: one line for each case and batch."""
    lines = [
        f"{'case':17} {'agrees':7} {'box AP':>7} {'mask AP':>7} {'batch':>5} {'latency ms':>10} {'engine ms':>10} "
        f"{'per s':>7} {'GPU MB':>7}  remark"
    ]
    for case, answer in cases.items():
        if "not run" in answer:
            lines.append(f"{case:17} not run: {answer['not run']}")
            continue
        if "error" in answer:
            lines.append(f"{case:17} failed: {answer['error']}")
            continue
        broken = [picture for picture in answer["pictures"] if picture["broken by"]]
        remarks = [answer["remark"]] if answer["remark"] else []
        remarks += [EXPECTED_TO_FAIL[case]] if case in EXPECTED_TO_FAIL and not answer["agrees"] else []
        remarks += [f"{broken[0]['picture']}: {broken[0]['broken by']}"] if broken else []
        for batch, speed in answer["speed"].items():
            lines.append(
                f"{case:17} {'yes' if answer['agrees'] else 'NO':7} {answer['AP']['box']:7.4f} "
                f"{answer['AP']['mask']:7.4f} {batch:>5} {speed['latency ms']:10.2f} {speed['engine ms']:10.2f} "
                f"{speed['pictures a second']:7.1f} {answer['GPU MB']:7.0f}  {'; '.join(remarks)}"
            )
    return "\n".join(lines)


# --- the first minute -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One line of ``--quick``. detail: what was found, or what is wrong. next_step: what to do; empty if it passed."""

    name: str
    outcome: Literal["pass", "FAIL", "not run"]
    detail: str
    next_step: str = ""

    def __str__(self) -> str:
        line = f"{self.outcome:8} {self.name:13} {self.detail}"
        return f"{line}\n{'':22} next: {self.next_step}" if self.next_step else line


class FirstMinute:
    """The steps of ``--quick``. Each returns what it found in words, and keeps what those after it stand on."""

    #: Of each step, in order, those that it stands on.
    STEPS: Mapping[str, Sequence[str]] = {
        "tensorrt": (),
        "gpu": (),
        "compiler": (),
        "graph": (),
        "onnx runtime": ("graph",),
        "plugins": ("tensorrt", "gpu", "compiler"),
        "registration": ("plugins",),
        "parser": ("graph", "registration"),
        "engine": ("parser",),
        "picture": ("engine", "onnx runtime"),
    }

    def __init__(self, model: str) -> None:
        self.model = model

    def tensorrt(self) -> str:
        return f"{runtime.tensorrt().__version__}, {' and '.join(builder.typings())} typing"

    def gpu(self) -> str:
        device = runtime.cuda().Device(0)
        return f"{device.name()}, sm_{''.join(map(str, device.compute_capability()))}"

    def compiler(self) -> str:
        compiler, headers = plugin_library.tensorrt_toolchain()
        return f"{compiler}, headers in {headers}"

    def graph(self) -> str:
        self.onnx = make_onnx(self.model, "mmcv", label="quick", input_shape=(1, 3, *QUICK_SHAPE))
        return f"{self.onnx.name}, {len(load_onnx(self.onnx).graph.node)} nodes"

    def onnx_runtime(self) -> str:
        picture = preprocess.read_picture(paths.DATA / "demo" / f"{DEMO[0]}.jpg")
        self.prepared = preprocess.prepare(picture, QUICK_SHAPE)
        self.expected = through.detect_prepared(ort_runner.OnnxRunner(self.onnx), self.prepared)
        count = int(np.count_nonzero(self.expected.scores >= parity.CONTRACT.score_floor))
        if not count:
            raise CourseError(
                f"the model finds nothing in the picture {DEMO[0]}", "check the checkpoint: see chapter 02"
            )
        return f"{count} objects in the picture {DEMO[0]}"

    def plugins(self) -> str:
        self.library = runtime.build_plugin_library()
        return self.library.name

    def registration(self) -> str:
        return ", ".join(f"{name} {how}" for name, how in runtime.load_plugins(self.library).items())

    def parser(self) -> str:
        return f"{builder.parse(self.onnx)} layers"

    def engine(self) -> str:
        self.built = builder.make_engine(self.model, self.onnx, plugins=self.library)
        return f"{self.built.name}, {self.built.stat().st_size / 1e6:.0f} MB"

    def picture(self) -> str:
        with TensorRTRunner(self.built) as runner:
            found = through.detect_prepared(runner, self.prepared)
        return str(parity.compare(self.expected, found).require())

    def run(self) -> Iterator[Step]:
        """Every step, as it is done."""
        good: set[str] = set()
        for name, ground in self.STEPS.items():
            if missing := [one for one in ground if one not in good]:
                yield Step(name, "not run", f"stands on: {', '.join(missing)}")
                continue
            try:
                yield Step(name, "pass", getattr(self, name.replace(" ", "_"))())
                good.add(name)
            except CourseError as error:
                yield Step(name, "FAIL", error.problem, error.next_step)
            except Exception as error:  # a step that fails must not hide the others
                yield Step(name, "FAIL", f"{type(error).__name__}: {error}", "report it with the lines above")


def quick(model: str) -> int:
    """Print the steps of the first minute and their sum; the exit status."""
    failed = []
    for step in FirstMinute(model).run():
        print(step, flush=True)
        failed += [step.name] if step.outcome != "pass" else []
    count = len(FirstMinute.STEPS)
    if failed:
        print(f"{count - len(failed)} of {count} passed. Mend what failed, from the top; then the same command again.")
    else:
        print(f"All {count} passed. Next, every case at full size: python scripts/verify_tensorrt.py --model {model}")
    return 1 if failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the first minute: a table of steps, and no record")
    parser.add_argument("--model", choices=models.MODEL_NAMES, help="default: $COURSE_MODEL, else emoji")
    parser.add_argument(
        "--dataset", type=Path, help="a folder with pictures and COCO's annotations.json, for AP; default data/val"
    )
    parser.add_argument("--output", type=Path, help="where the record goes; default evidence/tensorrt_MODEL.json")
    parser.add_argument(
        "--cases",
        nargs="+",
        choices=CASES,
        help=f"which to run; default all, {' and '.join(WITH_PLAN)} if there is a plan",
    )
    parser.add_argument("--plan", type=Path, help=f"a precision plan (JSON), for {' and '.join(WITH_PLAN)}")
    parser.add_argument(
        "--batch", type=int, default=2, choices=range(1, len(DEMO) + 1), help="the dynamic engine's largest batch"
    )
    parser.add_argument("--in-flight", type=int, default=2, help="runs at a time; each takes buffers of its own")
    parser.add_argument("--repeats", type=int, default=50, help="runs a measurement")
    parser.add_argument("--commit", help="the commit, for a copy without a repository")
    given = parser.parse_args(arguments)
    if given.repeats < 1 or given.in_flight < 1:
        parser.error("--repeats and --in-flight start at 1")
    if given.quick and (given.cases or given.plan or given.output):
        parser.error("--quick has no cases, no plan and no record")
    chosen = given.cases or [case for case in CASES if given.plan or case not in WITH_PLAN]
    planned = [case for case in chosen if case in WITH_PLAN]
    if planned and not given.plan:
        parser.error(f"the case {planned[0]} needs --plan")
    if given.plan and not planned:
        parser.error(f"--plan is for the cases {' and '.join(WITH_PLAN)}, which are not among --cases")
    try:
        given.model = given.model or models.current_model_name()
    except CourseError as error:
        parser.error(str(error))
    if given.quick:
        return quick(given.model)
    try:
        plan = precision_plan.load(given.plan) if given.plan else None
        if reason := runtime.why_not():
            print(f"Cannot verify here: {reason}", file=sys.stderr)
            return 2
        lacking = {case: reason for case in chosen if (reason := not_here(case))}
        if len(lacking) == len(set(chosen)):
            print(f"Cannot verify here: {'; '.join(dict.fromkeys(lacking.values()))}", file=sys.stderr)
            return 2
        keep_fp32 = precision_plan.layer_names(load_onnx(graph(given.model, planned[0])), plan) if plan else ()
        library = runtime.build_plugin_library()
    except CourseError as error:
        print(f"Cannot verify here: {error}", file=sys.stderr)
        return 2
    cases: dict[str, dict[str, Any]] = {}
    for case in chosen:
        if case in lacking:
            cases[case] = {"not run": lacking[case]}
            continue
        print(f"--- {case}", flush=True)
        try:
            cases[case] = verify(case, library, given, keep_fp32)
        except Exception as error:  # each case is reported; one that fails must not hide the others
            cases[case] = {"agrees": False, "error": f"{type(error).__name__}: {error}"}
    record = {
        **evidence.head(
            f"TensorRT engines of the {given.model} model against ONNX Runtime", runtime.machine(), of=given.commit
        ),
        "note": "fp32 agrees if every picture keeps the contract and AP moves by at most 0.1 points, fp16 if AP moves "
        "by at most 0.5 points; the case fp16 is expected to disagree",
        "model": given.model,
        "dataset": given.dataset.name if given.dataset else "data/val",
        "repeats": given.repeats,
        "plan": [asdict(node) for node in plan.nodes] if plan else None,
        "cases": cases,
    }
    output = given.output or paths.EVIDENCE / f"tensorrt_{given.model}.json"
    evidence.save(output, record)
    print(table(cases), f"written to {output}", sep="\n")
    return 0 if all(counts_as_good(case, answer) for case, answer in cases.items()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
