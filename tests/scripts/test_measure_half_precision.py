"""The script that measures half precision: what it refuses, and one row of its table."""

from __future__ import annotations

import json

import pytest

from helpers.errors import CourseError
from scripts import measure_half_precision as script


def test_wrong_requests_are_named_before_anything_is_measured(tmp_path):
    output = tmp_path / "record.json"
    with pytest.raises(CourseError, match="there is no row 'nothing': use some of: FP32, half, nothing in FP32"):
        script.main(["--output", str(output), "--rows", "FP32", "nothing"])
    with pytest.raises(CourseError, match="there are 60 scenes, not 61"):
        script.main(["--output", str(output), "--pictures", "61"])
    assert not output.exists()
    output.write_text('{"rows": 3}')
    with pytest.raises(CourseError, match="no record of this script"):
        script.main(["--output", str(output)])
    output.write_text('{"model": "r50", "rows": []}')
    with pytest.raises(CourseError, match="the record of another measurement"):
        script.main(["--output", str(output)])
    assert output.read_text() == '{"model": "r50", "rows": []}'


@pytest.mark.slow
def test_rows_are_measured_once_and_keep_the_order_of_the_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COURSE_BUILD", str(tmp_path / "build"))
    output = tmp_path / "record.json"
    words = ["--random-weights", "--output", str(output), "--commit", "abc"]
    script.main([*words, "--rows", "half, nothing in FP32"])
    script.main([*words, "--rows", "FP32"])
    first = json.loads(output.read_text())
    exact, rounded = first["rows"]
    assert (exact["row"], exact["share with a partner"], exact["median box error, px"]) == ("FP32", 1, 0)
    assert rounded["not finite in dets of 'crowd'"] > 0
    assert "box AP" not in exact
    monkeypatch.setattr(script, "measure", None)
    script.main([*words, "--rows", "FP32"])
    assert json.loads(output.read_text()) == first
    assert "half, nothing in FP32" in capsys.readouterr().out
