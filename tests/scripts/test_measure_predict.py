"""The script that measures many pictures: its rate, its overhead, and what it calls lost."""

from __future__ import annotations

import json
import os

import pytest

from helpers.errors import CourseError
from scripts import measure_predict as script


def parts(folder, *contents):
    """A part at every two seconds."""
    (folder / "parts").mkdir(parents=True)
    for number, names in enumerate(contents):
        # The order of the names is not that of time.
        part = folder / "parts" / f"{9 - number:08}.jsonl"
        part.write_text("".join(json.dumps({"picture": name, "results": []}) + "\n" for name in names))
        os.utime(part, (100 + 2 * number, 100 + 2 * number))
    return folder


def test_the_rate_leaves_the_start_out(tmp_path):
    assert script.rate(parts(tmp_path / "a", ["1", "2", "3", "4", "5"], ["6"], ["7", "8", "9"])) == 1
    assert script.rate(tmp_path / "a", workers=2) == 1.5
    with pytest.raises(CourseError, match="no more than one batch for each worker"):
        script.rate(tmp_path / "a", workers=3)


def test_overhead_is_against_the_same_round():
    rates = {script.PLAIN: [1.0, 2.0], script.ONE: [0.5, 1.0]}
    rows = script.table({name: [10.0, 30.0] for name in rates}, rates, 40)
    assert [row["overhead"] for row in rows] == [0, 1]
    assert rows[1]["pictures a second, start and end included"] == 2


def test_lost_and_twice_are_counted(tmp_path):
    folder = parts(tmp_path / "out", ["a.png", "b.png"], ["b.png"])
    (tmp_path / "list.txt").write_text("a.png\nb.png\nc.png\n")
    assert script.lost_and_twice(folder, tmp_path / "list.txt") == {"lost": 1, "twice": 1}


def test_detections_are_counted_by_picture(tmp_path):
    content = {"images": [{"id": 1}, {"id": 2}], "annotations": [{"image_id": 2}, {"image_id": 2}]}
    (tmp_path / "coco.json").write_text(json.dumps(content))
    assert script.detections(tmp_path) == {1: 0, 2: 2}


def test_what_cannot_be_measured_is_refused(tmp_path):
    with pytest.raises(CourseError, match="measure nothing"):
        script.main(["--output", "x.json", "--rounds", "0"])
    with pytest.raises(CourseError, match="there is no bundle .*none: run chapter 08"):
        script.main(["--output", "x.json", "--bundle", str(tmp_path / "none")])
