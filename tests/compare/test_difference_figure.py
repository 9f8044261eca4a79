"""The picture of a finding, on arrays made by hand."""

from __future__ import annotations

import types

import matplotlib.pyplot as plt
import numpy as np
import pytest

from helpers.compare import search
from helpers.detector.preprocess import NetworkInput


@pytest.mark.parametrize("expected", [0, 3])
@pytest.mark.parametrize("shape", [(0, 5), (100, 5), (0, 64, 64), (100, 64, 64)])
def test_a_picture_without_detections_has_a_figure(monkeypatch, expected, shape):
    """PyTorch returns no row there, and the graph none or a full number of rows of zeros."""
    found = types.SimpleNamespace(symptom="dets", reference="inference", expected=None)
    report = types.SimpleNamespace(culprit=lambda: found)
    monkeypatch.setattr(search, "run_graph", lambda *_: {"dets": np.zeros((1, *shape), np.float32)})
    monkeypatch.setattr(search, "_expected_array", lambda *_: np.zeros((expected, *shape[1:]), np.float32))
    prepared = NetworkInput.full(np.zeros((1, 3, 64, 64), np.float32))
    figure = search.difference_figure(report, None, None, prepared, np.zeros((64, 64, 3), np.uint8))
    figure.canvas.draw()
    plt.close(figure)
