"""scripts/measure_nms_pre.py, at a small input with one picture."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from helpers.detector import models
from scripts import measure_nms_pre


def test_each_value_has_its_row(light_detector: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = copy.deepcopy(light_detector)
    monkeypatch.setattr(models, "load_detector", lambda _: detector)
    given = ["--output", str(tmp_path / "x.json"), "--pictures", "1", "--input", "256", "320", "--model", "emoji"]
    measure_nms_pre.main([*given, "--nms-pre", "2000", "1"])
    record = json.loads((tmp_path / "x.json").read_text())
    assert (record["model"], record["pictures"], record["input"]) == ("emoji", 1, [256, 320])
    many, one = record["rows"]
    # Three anchors a place: 64 x 80 and 32 x 40 places have more than 2000, the others 16 x 20, 8 x 10 and 4 x 5.
    assert many["boxes a picture"] == 2 * 2000 + 3 * (320 + 80 + 20)
    assert many["all seen by TensorRT"] == (many["boxes a picture"] <= 5000)
    assert one["boxes a picture"] == 5
    assert one["all seen by TensorRT"]
    assert many["box AP"] > one["box AP"]
    assert light_detector.rpn_head.test_cfg.nms_pre == 200


def test_the_limit_is_the_one_that_a_graph_is_judged_by() -> None:
    assert measure_nms_pre.most_boxes() == 5000


def test_numbers_below_one_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in (["--pictures", "0"], ["--nms-pre", "1000", "0"], ["--input", "0", "320"]):
        with pytest.raises(SystemExit):
            measure_nms_pre.main(["--output", str(tmp_path / "x.json"), *option])
        assert "from 1 on" in capsys.readouterr().err
