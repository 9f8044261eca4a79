"""The picture of a finding, on arrays made by hand."""

from __future__ import annotations

import types

import matplotlib.pyplot as plt
import numpy as np
import pytest

from helpers.compare import search
from helpers.detector.preprocess import NetworkInput
from helpers.graph.runner import RunnerError


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


def test_of_many_boxes_the_first_are_drawn_and_all_are_counted(monkeypatch):
    boxes = np.arange(400, dtype=np.float32).reshape(100, 4)
    report = types.SimpleNamespace(culprit=lambda: types.SimpleNamespace(symptom="y", reference="inference"))
    monkeypatch.setattr(search, "run_graph", lambda *_: {"y": boxes[90:]})
    monkeypatch.setattr(search, "_expected_array", lambda *_: boxes[:95])
    prepared = NetworkInput.full(np.zeros((1, 3, 64, 64), np.float32))
    (axis,) = search.difference_figure(report, None, None, prepared, np.zeros((64, 64, 3), np.uint8)).axes
    drawn = [[tuple(path.vertices[0]) for path in lines.get_paths()] for lines in axis.collections]
    assert drawn == [[tuple(box[:2]) for box in boxes[: search.DRAWN]], [tuple(box[:2]) for box in boxes[95:]]]
    words = [text.get_text() for text in axis.get_legend().get_texts()]
    assert words == [
        f"only PyTorch: 90 boxes, the first {search.DRAWN} drawn",
        "only the graph: 5 boxes",
        "both: 5 boxes (not drawn)",
    ]
    plt.close(axis.figure)


def test_a_runtime_that_stops_has_a_figure_of_what_was_expected(monkeypatch):
    def stop(*_):
        raise RunnerError("stopped on purpose", "nothing")

    report = types.SimpleNamespace(culprit=lambda: types.SimpleNamespace(symptom="y", reference="inference"))
    monkeypatch.setattr(search, "run_graph", stop)
    monkeypatch.setattr(search, "_expected_array", lambda *_: np.arange(6.0).reshape(1, 1, 2, 3))
    prepared = NetworkInput.full(np.zeros((1, 3, 64, 64), np.float32))
    figure = search.difference_figure(report, None, None, prepared, np.zeros((64, 64, 3), np.uint8))
    assert [len(line.get_xdata()) for line in figure.axes[0].lines] == [6, 0]
    plt.close(figure)
