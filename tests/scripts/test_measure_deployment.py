"""The script that measures what a picture costs: what it calls agreement and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.detector.detections import Detections
from helpers.errors import CourseError
from scripts import measure_deployment as script


def test_agreement_is_the_contracts():
    box = np.array([[2, 2, 9, 9]], np.float32)
    masks = np.zeros((1, 12, 12), bool)
    masks[0, 2:9, 2:9] = True
    exact = Detections(box, np.array([0.9], np.float32), np.array([3]), masks)
    moved = Detections(box + 1, exact.scores, exact.labels, masks)
    assert script.agreement(exact, exact)["parity"]
    assert not script.agreement(exact, moved)["parity"]


def test_nothing_is_written_where_nothing_is_measured(tmp_path):
    with pytest.raises(CourseError, match="0 rounds measure nothing"):
        script.main(["--output", str(tmp_path / "record.json"), "--rounds", "0"])
    assert list(tmp_path.iterdir()) == []
