"""The record of mmdet's models: kept between calls, told as it is, and its page made from it."""

from __future__ import annotations

import json

import pytest

from helpers import evidence
from scripts import measure_models


@pytest.fixture
def child(monkeypatch):
    """The configs that were measured, with the parts; each is answered at once."""
    asked = []

    def answer(config, parts, limit):
        asked.append((config.name, *parts))
        if "retinanet" in config.name:
            return {"build": {"verdict": "refused", "sentence": "model.type = RetinaNet | no."}}
        return {"build": {"verdict": "built"}, **{part: {"verdict": "agrees"} for part in parts}}

    monkeypatch.setattr(measure_models, "in_child", answer)
    monkeypatch.setattr(measure_models, "CONFIGS", {"a": "x/a.py", "b": "x/retinanet.py", "c": "x/c.py"})
    return asked


def test_what_is_recorded_is_not_measured_again(child, tmp_path):
    file = tmp_path / "models.json"
    call = ["--output", str(file)]
    measure_models.main([*call, "--parts", "standard", "--only", "a"])
    measure_models.main([*call, "--parts", "standard"])
    measure_models.main([*call, "--parts", "standard,mmcv"])
    assert child == [
        ("a.py", "standard"),
        ("retinanet.py", "standard"),
        ("c.py", "standard"),
        ("a.py", "mmcv"),
        ("c.py", "mmcv"),
    ]
    rows = evidence.load(file)["rows"]
    assert [row["kind"] for row in rows] == ["a", "b", "c"]
    assert rows[0]["standard"] == rows[0]["mmcv"] == {"verdict": "agrees"}
    measure_models.main([*call, "--minutes", "-1"])
    assert len(child) == 5


def test_the_page_counts_what_agrees(child, tmp_path):
    file = tmp_path / "models.json"
    measure_models.main(["--output", str(file), "--parts", "standard,mmcv"])
    record = json.loads(file.read_text())
    text = measure_models.page(record)
    assert "**2 of 3 kinds agree in both flavours, 1 are refused with a sentence.**" in text
    assert "| b | model.type = RetinaNet   no. |" in text
    record["rows"][0]["mmcv"] = {"verdict": "disagrees", "sentence": "a box is off"}
    text = measure_models.page(record)
    assert "**1 of 3 kinds agree in both flavours, 1 are refused with a sentence, 1 otherwise.**" in text
    assert "| a | agrees | disagrees |  |  | `x/a.py` |" in text
    assert "| a | a box is off |" in text
    record["rows"][0]["build"]["unsteady"] = ["a box moves"]
    record["rows"][0] |= {part: {"verdict": "refused", "sentence": "no"} for part in ("standard", "mmcv")}
    text = measure_models.page(record)
    assert "**1 of 3 kinds agree in both flavours, 2 are refused with a sentence.**" in text
    assert "| a (unsteady) | refused | refused |  |  | `x/a.py` |" in text


@pytest.mark.parametrize(("steady", "chosen"), [((2, 5), 2), ((), 3)])
def test_weights_are_drawn_until_pytorch_agrees_with_itself(steady, chosen, monkeypatch):
    def unsteady(detector, inputs):
        return [] if detector in steady else ["moves"] * (1 if detector == 3 else 4)

    monkeypatch.setattr(measure_models, "pictures", lambda detector, shape: [])
    monkeypatch.setattr(measure_models, "unsteady", unsteady)
    seed, detector, broken = measure_models.steadiest(lambda seed: seed, (8, 8))
    assert (seed, detector) == (chosen, chosen)
    assert bool(broken) == (not steady)


def test_a_process_that_dies_is_a_row(monkeypatch, tmp_path):
    monkeypatch.setattr(measure_models, "measure", lambda *_: __import__("os")._exit(7))
    row = measure_models.in_child(tmp_path / "a.py", ("standard",), 60)
    assert row == {"build": {"verdict": "died", "sentence": "the process ended with 7"}}


def test_every_config_is_in_the_wheel():
    missing = [
        name for name in measure_models.CONFIGS.values() if not (measure_models.configs_folder() / name).is_file()
    ]
    assert missing == []
    assert len(set(measure_models.CONFIGS.values())) == len(measure_models.CONFIGS)


def test_a_detector_that_makes_a_pixel_of_a_rounding_is_unsteady(small_detector, small_input):
    detector, inputs = small_detector(), [small_input(1), small_input(2)]
    features = detector.extract_feat
    assert measure_models.unsteady(detector, inputs) == []
    assert detector.extract_feat == features
    detector.roi_head.bbox_head.fc_reg.weight.data.mul_(1e5)
    detector.roi_head.bbox_head.fc_cls.weight.data.mul_(1e5)
    assert measure_models.unsteady(detector, inputs)
