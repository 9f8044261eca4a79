"""The GPU verification script's dry run: all of its code that a CPU can run. It measures nothing, and must say so."""

from __future__ import annotations

import importlib.util
import json
import sys

import pytest
import torch

from helpers.paths import REPO_ROOT


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("verify_cuda_plugins", REPO_ROOT / "scripts/verify_cuda_plugins.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def without_nvcc(script, monkeypatch):
    """Compiling the kernels has its own test in test_plugins.py."""
    monkeypatch.setattr(script.plugin_library, "find_nvcc", lambda: None)


def test_the_dry_run_goes_through_and_calls_itself_one(script, without_nvcc, tmp_path, capsys):
    output = tmp_path / "record.json"
    assert script.main(["--dry-run", "--output", str(output), "--commit", "abc", "--seed", "3"]) == 0
    record = json.loads(output.read_text())
    assert record["dry run"] is True
    assert "times mean nothing" in record["note"]
    assert record["commit"] == "abc"
    assert record["seed"] == 3
    assert record["machine"]["torch"] == torch.__version__
    assert len(record["checks"]) > 60
    assert all(check["passed"] for check in record["checks"])
    assert {row["operator"].split()[0] for row in record["benchmarks"]} == {
        "RoIAlign", "MultiLevelRoIAlign", "grid_sampler", "NonMaxSuppression",
    }  # fmt: skip
    assert record["targets"] == []  # a CPU's times meet and miss nothing
    shown = capsys.readouterr().out
    assert shown.rstrip().splitlines()[-2].endswith("checks passed")


def test_a_wrong_kernel_is_found_and_the_rest_still_runs(script, without_nvcc, tmp_path, monkeypatch, capsys):
    right = script.HostLoops.grid_sampler
    monkeypatch.setattr(script.HostLoops, "grid_sampler", lambda *a: right(*a) * 1.01)

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no such luck")

    monkeypatch.setattr(script.HostLoops, "scatter_nd", broken)
    output = tmp_path / "record.json"
    assert script.main(["--dry-run", "--output", str(output)]) == 1
    record = json.loads(output.read_text())
    failed = {check["check"].split()[0] for check in record["checks"] if not check["passed"]}
    assert failed == {"grid_sampler"}
    assert record["sections"]["check scatter_nd"]["status"] == "failed"
    assert "no such luck" in record["sections"]["check scatter_nd"]["error"]
    assert record["sections"]["benchmark non_max_suppression"]["status"] == "ok"
    assert "FAILED  grid_sampler" in capsys.readouterr().out


def test_an_unwritten_output_fails(script):
    report = script.Report()
    script.compare(report, "poisoned", torch.full((3,), float("nan")), torch.ones(3), None)
    assert not report.checks[0]["passed"]


def test_half_precision_is_held_to_twice_the_framework(script):
    reference = torch.ones(4, dtype=torch.float64)
    theirs = (reference + 0.01).half()
    for error, passed in ((0.015, True), (0.03, False)):
        report = script.Report()
        script.compare(report, "x", (reference + error).half(), reference, theirs)
        assert report.checks[0]["passed"] is passed


def test_without_a_gpu_it_says_what_to_do(script, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert script.main(["--output", str(tmp_path / "x.json")]) == 2
    assert "pass --dry-run" in capsys.readouterr().err
    assert not (tmp_path / "x.json").exists()
