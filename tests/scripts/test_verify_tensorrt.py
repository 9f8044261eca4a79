"""scripts/verify_tensorrt.py as far as it goes without TensorRT.

Wherever an engine would answer, the answers are made up, or ONNX Runtime's on the graph that the engine would be built
from. No assertion here is about TensorRT.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import shutil
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from helpers.compare.parity import compare
from helpers.detector.detections import Detections
from helpers.detector.preprocess import NetworkInput, prepare
from helpers.export.exporter import HALF, dynamic_options
from helpers.paths import REPO_ROOT


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("verify_tensorrt", REPO_ROOT / "scripts" / "verify_tensorrt.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_without_tensorrt_it_says_so_and_writes_nothing(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script.runtime, "why_not", lambda: "TensorRT is not installed: do this.")
    assert script.main(["--output", str(tmp_path / "x.json")]) == 2
    assert "Cannot verify here: TensorRT is not installed" in capsys.readouterr().err
    assert not (tmp_path / "x.json").exists()


def speed(milliseconds: float) -> dict[str, float]:
    return {"latency ms": milliseconds, "engine ms": milliseconds / 2, "pictures a second": 2.0}


def answer(**changed: Any) -> dict[str, Any]:
    """What ``verify`` answers for a case in which all is well."""
    return {
        "agrees": True, "remark": "", "pictures": [], "AP": {"box": 0.5, "mask": 0.4, "same": True},
        "speed": {"1": speed(1.5)}, "GPU MB": 7.0, **changed,
    }  # fmt: skip


#: What the made-up ``verify`` finds to disagree.
DISAGREEING = ("fp16", "fp32-dynamic")


@pytest.fixture
def as_if_ready(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A machine that claims to have everything; the list gets the cases that are verified, none of which is."""
    seen: list[str] = []

    def verify(case: str, library: Path, given: Any, keep_fp32: tuple[str, ...] = ()) -> dict[str, Any]:
        seen.append(f"{case} {' '.join(keep_fp32)}".strip())
        if case == "fp32":
            raise RuntimeError("no such kernel")
        return answer(agrees=case not in DISAGREEING)

    monkeypatch.setattr(script.runtime, "why_not", lambda: None)
    monkeypatch.setattr(script.builder, "typings", lambda: ("weak", "strong"))
    monkeypatch.setattr(script.runtime, "build_plugin_library", lambda: tmp_path)
    monkeypatch.setattr(script.runtime, "machine", lambda: {"gpu": "none"})
    monkeypatch.setattr(script, "graph", lambda *_: small_graph(tmp_path))
    monkeypatch.setattr(script, "verify", verify)
    return seen


def small_graph(folder: Path) -> Path:
    """x -> Relu "first" -> Relu "second" -> y."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    nodes = [helper.make_node("Relu", ["x"], ["h"], "first"), helper.make_node("Relu", ["h"], ["y"], "second")]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [x], [y])), folder / "small.onnx")
    return folder / "small.onnx"


def plan(folder: Path, *names: str) -> Path:
    (folder / "plan.json").write_text(json.dumps({"nodes": [{"name": name, "reason": "overflows"} for name in names]}))
    return folder / "plan.json"


def test_a_case_that_fails_is_recorded_and_the_next_one_runs(
    script: Any, as_if_ready: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--output", str(tmp_path / "x.json"), "--cases", "fp32", "fp16-patched", "--commit", "abc"]
    assert script.main(given) == 1
    record = json.loads((tmp_path / "x.json").read_text())
    assert record["cases"]["fp32"]["error"] == "RuntimeError: no such kernel"
    assert record["cases"]["fp16-patched"]["agrees"]
    assert record["commit"] == "abc"
    assert "no such kernel" in capsys.readouterr().out
    assert script.main(["--output", str(tmp_path / "x.json"), "--cases", "fp16-patched"]) == 0
    assert script.main(["--output", str(tmp_path / "x.json"), "--cases", "fp16-patched", "fp32-dynamic"]) == 1


def test_the_graph_that_overflows_does_not_decide(
    script: Any,
    as_if_ready: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its disagreement is expected; that it cannot be built or run is not."""
    given = ["--output", str(tmp_path / "x.json"), "--cases", "fp16", "fp16-patched"]
    assert script.main(given) == 0
    assert not json.loads((tmp_path / "x.json").read_text())["cases"]["fp16"]["agrees"]
    assert "NO" in (line := capsys.readouterr().out.splitlines()[3])
    assert line.endswith("expected: see chapter 07")
    monkeypatch.setattr(script, "verify", lambda *_: answer())
    assert script.main(given) == 0
    assert "expected" not in capsys.readouterr().out

    def broken(*_: Any) -> Any:
        raise script.builder.EngineBuildError("no engine", "free some memory")

    monkeypatch.setattr(script, "verify", broken)
    assert script.main([*given[:3], "fp16"]) == 1


def test_a_plan_is_carried_out_in_both_ways(script: Any, as_if_ready: list[str], tmp_path: Path) -> None:
    given = ["--output", str(tmp_path / "x.json"), "--plan", str(plan(tmp_path, "second"))]
    assert script.main(given) == 1
    assert [name.split()[0] for name in as_if_ready] == list(script.CASES)
    assert as_if_ready[-2:] == ["fp16-plan second", "fp16-typed second"]
    (kept,) = json.loads((tmp_path / "x.json").read_text())["plan"]
    assert (kept["name"], kept["reason"]) == ("second", "overflows")
    as_if_ready.clear()
    assert script.main([*given, "--cases", "fp16-typed"]) == 0
    assert as_if_ready == ["fp16-typed second"]
    as_if_ready.clear()
    script.main(given[:2])
    assert as_if_ready == list(script.CASES[:-2]), "without a plan, the cases that need none"


@pytest.mark.parametrize(
    ("given", "words"),
    [(["--cases", "fp32", "fp16-typed"], "fp16-typed needs --plan"),
     (["--cases", "fp16", "--plan", "x.json"], "not among --cases")],
)  # fmt: skip
def test_a_plan_and_the_cases_that_need_it_go_together(
    script: Any, as_if_ready: list[str], capsys: pytest.CaptureFixture[str], given: list[str], words: str
) -> None:
    with pytest.raises(SystemExit):
        script.main(given)
    assert words in capsys.readouterr().err
    assert as_if_ready == []


@pytest.mark.parametrize(
    ("have", "lacks", "typing"), [("weak", "fp16-typed", "strong"), ("strong", "fp16-plan", "weak")]
)
def test_what_this_tensorrt_has_no_way_for_is_not_run_and_does_not_decide(
    script: Any, as_if_ready: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, have: str, lacks: str, typing: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(script.builder, "typings", lambda: (have,))
    given = ["--output", str(tmp_path / "x.json"), "--plan", str(plan(tmp_path, "second"))]
    assert script.main([*given, "--cases", "fp16-plan", "fp16-typed"]) == 0
    assert as_if_ready == [f"{'fp16-plan' if lacks == 'fp16-typed' else 'fp16-typed'} second"]
    why = f"this TensorRT has no {typing} typing"
    assert json.loads((tmp_path / "x.json").read_text())["cases"][lacks] == {"not run": why}
    assert f"{lacks:17} not run: {why}" in capsys.readouterr().out
    (tmp_path / "x.json").unlink()
    assert script.main([*given, "--cases", lacks]) == 2
    assert capsys.readouterr().err == f"Cannot verify here: {why}\n"
    assert not (tmp_path / "x.json").exists()


def test_a_plan_of_another_graph_is_one_sentence_and_builds_nothing(
    script: Any, as_if_ready: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--output", str(tmp_path / "x.json"), "--plan", str(plan(tmp_path, "first", "Mul_9", "Div_3"))]
    assert script.main(given) == 2
    assert capsys.readouterr().err == (
        "Cannot verify here: the graph has no node 'Div_3' (2 of 3 to keep are missing): "
        "take the names from this graph.\n"
    )
    assert as_if_ready == []
    assert not (tmp_path / "x.json").exists()


def test_what_is_no_plan_is_one_sentence(
    script: Any, as_if_ready: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "plan.json").write_text("{")
    assert script.main(["--output", str(tmp_path / "x.json"), "--plan", str(tmp_path / "plan.json")]) == 2
    assert "Cannot verify here: " in (said := capsys.readouterr().err)
    assert "is no precision plan: write" in said
    assert as_if_ready == []


def test_an_empty_plan_is_a_plan(script: Any, as_if_ready: list[str], tmp_path: Path) -> None:
    given = ["--output", str(tmp_path / "x.json"), "--cases", "fp16-plan", "--plan", str(plan(tmp_path))]
    assert script.main(given) == 0
    assert as_if_ready == ["fp16-plan"]


def found(x: float) -> Detections:
    box = np.array([[x, 0, x + 30, 30]], np.float32)
    return Detections(box, np.array([0.9], np.float32), np.array([2]), np.ones((1, 4, 4), bool))


def test_a_disagreement_is_in_the_summary(script: Any) -> None:
    assert script.summary(compare(found(0), found(0)))["agrees"]
    broken = script.summary(compare(found(0), found(1)))
    assert not broken["agrees"]
    assert broken["worst box, px"] == 1
    json.dumps(broken)


def test_each_case_has_its_options(script: Any) -> None:
    assert script.options("fp32", 3).profile == ()
    profile = dict(script.options("fp32-dynamic", 3).profile)
    assert profile.keys() == {"input", "image_size"}
    assert all([shape[0] for shape in shapes] == [1, 1, 3] for shapes in profile.values())
    assert profile["image_size"][0] == (1, 2)
    assert script.options("fp16", 3, ("a",)) == script.builder.BuildOptions("fp16")
    assert script.options("fp16-patched", 3, ("a",)) == script.builder.BuildOptions("fp16")
    weak, strong = (script.options(case, 3, ("a",)) for case in ("fp16-plan", "fp16-typed"))
    assert weak == script.builder.BuildOptions("fp16", keep_fp32=("a",), typing="weak")
    assert strong == script.builder.BuildOptions("fp16", keep_fp32=("a",), typing="strong")


def test_each_case_has_its_graph_of_the_model(
    script: Any, exported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A copy, beside which no earlier result of the rewrite lies.
    file = Path(shutil.copy(exported("mmcv"), tmp_path))
    made: list[str] = []

    def make_onnx(model: str, flavour: str, **options: Any) -> Any:
        made.append(model)
        return options if options else file

    monkeypatch.setattr(script, "make_onnx", make_onnx)
    operators = [node.op_type for node in onnx.load(script.graph("r50", "fp32-multi-level")).graph.node]
    assert operators.count("MultiLevelRoIAlign") == 2
    assert "MMCVRoiAlign" not in operators
    assert all(script.graph("r50", case) == file for case in ("fp32", "fp16", "fp16-plan", "fp16-typed"))
    axes = script.graph("r50", "fp32-dynamic")["dynamic_axes"]
    assert axes["input"] == axes["image_size"] == {0: "batch"}
    patched = script.graph("r50", "fp16-patched")["applied"]
    assert set(made) == {"r50"}
    assert patched[-len(HALF) :] == HALF
    assert "p07_rpn_levels_apart" in patched


@pytest.mark.parametrize("largest", [1, 2, 4])
def test_every_picture_is_at_every_place_of_every_batch(script: Any, largest: int) -> None:
    batches = list(script.groups("abcd", largest))
    assert all(len(set(batch)) == len(batch) for batch in batches), "different pictures"
    for size in range(1, largest + 1):
        for place in range(size):
            assert {batch[place] for batch in batches if len(batch) == size} == set("abcd")
    assert len(batches[-1]) == 1


class MadeUp:
    """In the place of a runner: one detection a picture, at the x that the picture's number says, moved by ``shift``
    in the second place of a batch."""

    def __init__(self, shift: float = 0, lanes: int = 1) -> None:
        self.shift, self.lanes, self.engine_ms = shift, lanes, 2.5
        self.runs = self.seconds = 0

    def detect_many(self, batches: Any) -> Any:
        for batch in batches:
            yield [found(number + (self.shift if place == 1 else 0)) for place, number in enumerate(batch)]

    def run(self, inputs: Any, *, copy: bool) -> Any:
        return next(iter(self.run_many([inputs], copy=copy)))

    def run_many(self, batches: Any, *, copy: bool) -> Any:
        for inputs in batches:
            assert not copy
            assert inputs["input"].shape == (2, 3, 4, 6)
            assert inputs["image_size"].tolist() == [[4, 6], [4, 6]]
            self.runs += 1
            self.seconds += 4
            yield {}


def test_pictures_of_a_batch_are_aligned_each_with_its_own(script: Any) -> None:
    pictures = {"a": 0.0, "b": 100.0, "c": 200.0}
    expected = {name: found(x) for name, x in pictures.items()}
    rows = script.align(MadeUp(), pictures, expected, 2)
    assert len(rows) == 3 + 3 * 2 + 1
    assert all(row["agrees"] for row in rows)
    rows = script.align(MadeUp(shift=100), pictures, expected, 2)
    assert [row["picture"] for row in rows if not row["agrees"]] == ["b", "c", "a"]
    assert all(row["agrees"] for row in rows if row["batch"][0] == row["picture"])


def test_a_measurement_counts_pictures_not_runs(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = MadeUp(lanes=2)
    monkeypatch.setattr(script, "time", types.SimpleNamespace(perf_counter=lambda: runner.seconds))
    result = script.measure(runner, [NetworkInput.full(np.zeros((1, 3, 4, 6), np.float32))] * 2, 5, 2)
    assert runner.runs == 3 * 2 + 5 + 5 * 2, "every lane is warm, then one at a time, then all"
    assert result == {"latency ms": 4000, "engine ms": 2.5, "pictures a second": 0.5}


def test_a_version_that_shares_no_profile_has_one_in_flight(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def runner(_: Path, lanes: int = 1) -> Any:
        if lanes > 1:
            raise script.EngineRunError("cannot share a profile", "use lanes=1")
        return MadeUp(lanes=lanes)

    monkeypatch.setattr(script, "TensorRTRunner", runner)
    opened, in_flight, remark = script.open_runner(tmp_path, 2)
    assert (opened.lanes, in_flight, remark) == (1, 1, "cannot share a profile: use lanes=1.")
    monkeypatch.setattr(script, "TensorRTRunner", lambda _, lanes: MadeUp(lanes=lanes))
    opened, in_flight, remark = script.open_runner(tmp_path, 2)
    assert (opened.lanes, in_flight, remark) == (2, 2, "")


def test_the_table_has_a_line_for_each_batch(script: Any) -> None:
    broken = {"picture": "crowd", "broken by": "class 3: box off"}
    lines = script.table(
        {
            "fp32-dynamic": answer(speed={"1": speed(10), "2": speed(18)}, remark="one lane"),
            "fp16": answer(agrees=False, pictures=[{"picture": "huge", "broken by": ""}, broken]),
            "fp32": {"agrees": False, "error": "RuntimeError: no such kernel"},
        }
    ).splitlines()
    assert len(lines) == 5
    assert lines[1].split()[:7] == ["fp32-dynamic", "yes", "0.5000", "0.4000", "1", "10.00", "5.00"]
    assert lines[2].split()[4:7] == ["2", "18.00", "9.00"]
    assert lines[2].endswith("one lane")
    assert lines[3].split()[1] == "NO"
    assert lines[3].endswith("crowd: class 3: box off")
    assert lines[4] == "fp32              failed: RuntimeError: no such kernel"


SMALL = (256, 320)


@pytest.fixture
def small_exports(exported: Any) -> Any:
    """``make_onnx`` at 256x320 with few proposals, in the ``standard`` flavour always: at full size, with mmcv's
    operators in Python, this would take minutes and 11 GB."""

    def make(_: str, flavour: str, *, label: str = "", **__: Any) -> Path:
        options = dynamic_options("standard") if label else {}
        return Path(exported("standard", (2 if label else 1, 3, *SMALL), **options))

    return make


def onnx_runtime_instead(script: Any, monkeypatch: pytest.MonkeyPatch, make_onnx: Any, spoil: Any) -> None:
    """Every engine is its ONNX file, run by ONNX Runtime; two pictures of the validation set are enough."""
    small = functools.partial(prepare, input_shape=SMALL)
    monkeypatch.setattr(script.preprocess, "prepare", small)
    monkeypatch.setattr(script, "make_onnx", make_onnx)

    class Instead(script.TensorRTRunner):  # type: ignore[name-defined,misc]
        def __init__(self, path: Path, *, lanes: int = 1) -> None:
            self.onnx, self.engine_ms = script.ort_runner.OnnxRunner(path, threads=2), 1.0

        def close(self) -> None:
            pass

        name = property(lambda self: self.onnx.name)
        input_shapes = property(lambda self: self.onnx.input_shapes)
        output_names = property(lambda self: self.onnx.output_names)

        def run_many(self, batches: Any, *, copy: bool = True) -> Any:
            for inputs in batches:
                yield spoil(self.onnx.run(inputs))

    monkeypatch.setattr(script, "DEMO", ("crowd", "tower", "thumbnail"))
    two = script.evaluation.load_set().head(2)
    monkeypatch.setattr(script.evaluation, "load_set", lambda *_: two)
    monkeypatch.setattr(script, "TensorRTRunner", Instead)
    monkeypatch.setattr(script.builder, "make_engine", lambda _, path, *args, **options: path)
    monkeypatch.setattr(script.runtime, "device_memory", lambda: (5_000_000, 0))


@pytest.fixture(scope="module")
def given() -> argparse.Namespace:
    return argparse.Namespace(model="emoji", dataset=None, batch=2, in_flight=1, repeats=1)


@pytest.mark.slow
def test_the_whole_way_with_onnx_runtime_in_the_place_of_tensorrt(
    script: Any, given: argparse.Namespace, small_exports: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx_runtime_instead(script, monkeypatch, small_exports, lambda raw: raw)
    result = script.verify("fp32-dynamic", tmp_path, given)
    assert result["agrees"]
    assert result["AP"]["same"]
    assert 0 < result["AP"]["mask"] < 1
    assert len(result["pictures"]) == 3 + 3 * 2 + 1
    assert sum(row["matched"] for row in result["pictures"]) > 50
    assert list(result["speed"]) == ["1", "2"]
    json.dumps(result)
    script.table({"fp32-dynamic": result})


@pytest.mark.parametrize(
    ("case", "moved", "same"),
    [("fp32", 0.0005, True), ("fp32", 0.002, False), ("fp16-patched", 0.004, True), ("fp16-typed", 0.01, False)],
)
def test_half_precision_has_more_room_in_ap(script: Any, case: str, moved: float, same: bool) -> None:
    """0.4 points are what simulated half precision moves without overflow, and a point with it."""
    expected = script.evaluation.AveragePrecision(0.6, 0.5, 0.8, 0.7, 48)
    for box, mask in ((moved, 0), (0, moved), (-moved, 0), (0, -moved)):
        found = replace(expected, box=0.6 + box, mask=0.5 + mask)
        assert script.same_ap(case, expected, found) == same


@pytest.mark.slow
def test_nan_in_every_row_is_a_disagreement_not_a_crash(
    script: Any, given: argparse.Namespace, small_exports: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the case fp16 may well answer, in boxes or in scores too."""

    def spoil(raw: dict[str, Any]) -> dict[str, Any]:
        raw["dets"][:, ::2, :4] = np.nan
        raw["dets"][:, 1::4, 4] = np.nan
        raw["dets"][:, 3::4, 2] = np.inf
        return raw

    onnx_runtime_instead(script, monkeypatch, small_exports, spoil)
    result = script.verify("fp16", tmp_path, given)
    assert not result["agrees"]
    assert not script.counts_as_good("fp16-patched", result)
    assert script.counts_as_good("fp16", result)
    json.dumps(result, allow_nan=False)
    script.table({"fp16": result})


@pytest.mark.slow
@pytest.mark.parametrize(("case", "score", "agrees"), [("fp32", 1e-3, False), ("fp16", 1e-3, True), ("fp16", 1, False)])
def test_half_precision_is_held_to_ap_and_single_to_every_score(
    script: Any, given: argparse.Namespace, small_exports: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    case: str, score: float, agrees: bool,
) -> None:  # fmt: skip
    """Scores lowered by 0.1% break the contract and no AP; by 100%, both."""

    def spoil(raw: dict[str, Any]) -> dict[str, Any]:
        raw["dets"][..., 4] *= 1 - score
        return raw

    onnx_runtime_instead(script, monkeypatch, small_exports, spoil)
    result = script.verify(case, tmp_path, given)
    assert result["agrees"] == agrees
    assert not all(row["agrees"] for row in result["pictures"])


def test_a_reference_that_finds_nothing_proves_no_half_precision(script: Any) -> None:
    nothing = script.evaluation.AveragePrecision(0.09, 0.05, 0.1, 0.1, 48)
    assert script.same_ap("fp32", nothing, nothing)
    assert not script.same_ap("fp16-patched", nothing, nothing)
    assert script.same_ap("fp16-patched", replace(nothing, box=0.1), replace(nothing, box=0.1))


def test_any_model_of_the_course_has_its_record(
    script: Any, as_if_ready: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def verify(case: str, library: Path, given: Any, keep_fp32: tuple[str, ...] = ()) -> dict[str, Any]:
        asked.append((given.model, given.dataset))
        return answer()

    monkeypatch.setattr(script, "verify", verify)
    monkeypatch.setattr(script.paths, "EVIDENCE", tmp_path)
    monkeypatch.setenv("COURSE_MODEL", "r50")
    assert script.main(["--cases", "fp16-patched", "--dataset", str(tmp_path)]) == 0
    assert script.main(["--cases", "fp16-patched", "--model", "emoji"]) == 0
    assert asked == [("r50", tmp_path), ("emoji", None)]
    records = {name: json.loads((tmp_path / f"tensorrt_{name}.json").read_text()) for name in ("r50", "emoji")}
    assert all(record["model"] == name and f"the {name} model" in record["what"] for name, record in records.items())
    monkeypatch.setenv("COURSE_MODEL", "r101")
    with pytest.raises(SystemExit):
        script.main([])


def test_the_help_explains(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        script.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(f"``{case}``" in text for case in script.CASES)
    assert all(option in text for option in ("--quick", "--model {emoji,r50}", "--dataset", "TENSORRT_ROOT"))


# --- the first minute -------------------------------------------------------------------------------------------------


@pytest.fixture
def first_minute(script: Any, exported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A machine that claims to have everything, whose engines are run by ONNX Runtime, on the ``standard`` flavour; the
    list gets the models that are asked for."""
    asked: list[str] = []

    def make_onnx(model: str, flavour: str, *, label: str, input_shape: Any) -> Path:
        asked.append(model)
        assert (flavour, tuple(input_shape)) == ("mmcv", (1, 3, *SMALL))
        return Path(exported("standard"))

    def make_engine(model: str, path: Path, *, plugins: Path) -> Path:
        asked.append(model)
        assert plugins == tmp_path / "libcourse_plugins.so"
        return path

    onnx_runtime_instead(script, monkeypatch, make_onnx, lambda raw: raw)
    monkeypatch.setattr(script.preprocess, "prepare", prepare)
    device = types.SimpleNamespace(name=lambda: "Fake GPU", compute_capability=lambda: (8, 6))
    monkeypatch.setattr(script.runtime, "tensorrt", lambda: types.SimpleNamespace(__version__="10.13"))
    monkeypatch.setattr(script.runtime, "cuda", lambda: types.SimpleNamespace(Device=lambda _: device))
    monkeypatch.setattr(script.runtime, "build_plugin_library", lambda: tmp_path / "libcourse_plugins.so")
    monkeypatch.setattr(script.runtime, "load_plugins", lambda _: {"grid_sampler": "registered"})
    monkeypatch.setattr(script.plugin_library, "tensorrt_toolchain", lambda: ("nvcc", tmp_path))
    monkeypatch.setattr(script.builder, "typings", lambda: ("strong", "weak"))
    monkeypatch.setattr(script.builder, "parse", lambda _: 896)
    monkeypatch.setattr(script.builder, "make_engine", make_engine)
    return asked


def test_the_first_minute_passes_where_all_is_well(
    script: Any, first_minute: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(["--quick", "--model", "r50"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[9:22].strip() for line in lines[:-1]] == list(script.FirstMinute.STEPS)
    assert all(line.startswith("pass ") for line in lines[:-1])
    assert "10.13, strong and weak typing" in lines[0]
    assert "Fake GPU, sm_86" in lines[1]
    assert int(lines[4].split()[3]) > 3, "objects found in the picture"
    assert "896 layers" in lines[7]
    assert "matched, 0 + 0 without a partner" in lines[9]
    assert lines[-1].endswith("python scripts/verify_tensorrt.py --model r50")
    assert set(first_minute) == {"r50"}


def test_the_first_minute_names_what_is_missing_and_goes_on_with_the_rest(
    script: Any, first_minute: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> Any:
        raise script.runtime.TensorRTMissingError("TensorRT is not installed", "pip install it")

    monkeypatch.setattr(script.runtime, "tensorrt", missing)
    assert script.main(["--quick"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["FAIL", "tensorrt"]
    assert lines[1].strip() == "next: pip install it"
    outcomes = {line[9:22].strip(): line[:8].strip() for line in lines[2:-1]}
    assert [name for name, outcome in outcomes.items() if outcome == "pass"] == [
        "gpu",
        "compiler",
        "graph",
        "onnx runtime",
    ]
    assert set(outcomes.values()) == {"pass", "not run"}
    assert lines[-1].startswith("4 of 10 passed")


@pytest.mark.parametrize("broken", ["plugins", "registration", "parser", "engine"])
def test_a_step_that_fails_in_any_way_stops_those_that_stand_on_it_only(
    script: Any, first_minute: list[str], monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def fail(self: Any) -> str:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(script.FirstMinute, broken, fail)
    monkeypatch.setattr(script.FirstMinute, "onnx_runtime", lambda self: "")
    steps = {step.name: step for step in script.FirstMinute("emoji").run()}
    assert steps[broken].detail == "RuntimeError: no such kernel"
    assert all(step.next_step for step in steps.values() if step.outcome == "FAIL")
    names = list(steps)
    after = names[names.index(broken) + 1 :]
    assert {name for name, step in steps.items() if step.outcome == "not run"} == set(after)
    assert steps[names[-1]].outcome == "not run"


def test_an_engine_that_finds_something_else_fails_the_last_step(
    script: Any, first_minute: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = script.TensorRTRunner.run_many

    def moved(self: Any, batches: Any, **options: Any) -> Any:
        for raw in run(self, batches, **options):
            raw["dets"][..., :4] += 1
            yield raw

    monkeypatch.setattr(script.TensorRTRunner, "run_many", moved)
    *_, last = script.FirstMinute("emoji").run()
    assert (last.name, last.outcome) == ("picture", "FAIL")
    assert last.next_step


def test_the_first_minute_has_no_cases(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for given in (["--cases", "fp32"], ["--plan", "x.json"], ["--output", "x.json"]):
        with pytest.raises(SystemExit):
            script.main(["--quick", *given])
        assert "--quick has no cases" in capsys.readouterr().err
