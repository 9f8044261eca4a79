"""scripts/verify_tensorrt.py as far as it goes without TensorRT; the engine's answers are made up."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.detections import Detections
from helpers.parity import compare
from helpers.paths import REPO_ROOT


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("verify_tensorrt", REPO_ROOT / "scripts" / "verify_tensorrt.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_tensorrt_it_says_so_and_writes_nothing(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script.trt, "why_not", lambda: "TensorRT is not installed: do this.")
    assert script.main(["--output", str(tmp_path / "x.json")]) == 2
    assert "Cannot verify here: TensorRT is not installed" in capsys.readouterr().err
    assert not (tmp_path / "x.json").exists()


def test_a_case_that_fails_is_recorded_and_the_next_one_runs(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def verify(case: str, *_: Any) -> dict[str, Any]:
        if case == "fp32":
            raise RuntimeError("no such kernel")
        return {"agrees": True, "pictures": {}, "median ms": 1.0, "pictures a second": 2.0}

    monkeypatch.setattr(script.trt, "why_not", lambda: None)
    monkeypatch.setattr(script.trt, "build_plugin_library", lambda: tmp_path)
    monkeypatch.setattr(script.trt, "machine", lambda: {"gpu": "none"})
    monkeypatch.setattr(script, "verify", verify)
    assert script.main(["--output", str(tmp_path / "x.json"), "--cases", "fp32", "fp16"]) == 1
    cases = json.loads((tmp_path / "x.json").read_text())["cases"]
    assert cases["fp32"]["error"] == "RuntimeError: no such kernel"
    assert cases["fp16"]["agrees"]
    assert "no such kernel" in capsys.readouterr().out


def test_a_disagreement_is_in_the_summary(script: Any) -> None:
    def found(x: float) -> Detections:
        masks = np.ones((1, 4, 4), bool)
        box = np.array([[x, 0, 30, 30]], np.float32)
        return Detections(box, np.array([0.9], np.float32), np.array([2]), masks)

    assert script.summary(compare(found(0), found(0)))["agrees"]
    broken = script.summary(compare(found(0), found(1)))
    assert not broken["agrees"]
    assert broken["worst box, px"] == 1
    json.dumps(broken)


def test_only_the_dynamic_case_has_a_profile(script: Any) -> None:
    assert script.options("fp32").profile == ()
    ((name, shapes),) = script.options("fp32-dynamic").profile
    assert name == "input"
    assert shapes[0][0] == 1
    assert shapes[2][0] == script.BATCH
    assert script.options("fp16").precision == "fp16"
