"""scripts/measure_broken_graphs.py, at a small input with one picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.detector import models
from helpers.export import exporter as export
from scripts import measure_broken_graphs


def test_the_first_graph_lacks_all_patches_and_the_last_none() -> None:
    first, *between, last = measure_broken_graphs.GRAPHS.values()
    assert first == export.NEEDED["standard"]
    assert last == export.CORRECT["standard"]
    assert all(set(first) < set(patches) < set(last) for patches in between)


@pytest.mark.slow
def test_each_graph_has_its_row(light_detector: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "load_detector", lambda _: light_detector)
    monkeypatch.setenv("COURSE_BUILD", str(tmp_path))
    given = ["--output", str(tmp_path / "x.json"), "--pictures", "1", "--input", "256", "320", "--model", "emoji"]
    measure_broken_graphs.main([*given, "--graphs", "unpatched", "correct"])
    record = json.loads((tmp_path / "x.json").read_text())
    assert (record["model"], record["pictures"], record["input"]) == ("emoji", 1, [256, 320])
    broken, correct = record["rows"]
    assert (broken["graph"], correct["graph"]) == ("unpatched", "correct")
    assert correct["patches"] == [name[:3] for name in export.CORRECT["standard"]]
    assert broken["box AP"] < correct["box AP"]


def test_numbers_below_one_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        measure_broken_graphs.main(["--output", str(tmp_path / "x.json"), "--pictures", "0"])
    assert "from 1 on" in capsys.readouterr().err
