"""The search for the first disagreement: planted faults in a small detector, and the embedded model's real defects."""

from __future__ import annotations

import dataclasses
import types

import numpy as np
import onnx
import pytest

from helpers.compare.search import ForeignGraphError, NoDisagreementError, NoMasksError, search
from helpers.detector.preprocess import prepare, read_picture
from helpers.export import exporter as export
from helpers.graph.cut import GraphInputError
from helpers.graph.file import load_onnx
from helpers.paths import DATA
from scripts.measure_search import Study


@pytest.fixture(scope="module")
def small(small_detector, small_input, tmp_path_factory):
    """Its constructor searches the correct graph and finds nothing."""
    detector, prepared = small_detector(), small_input()
    path = tmp_path_factory.mktemp("small") / "x.onnx"
    return Study(detector, load_onnx(export.export_onnx(detector, path, input_shape=prepared.tensor.shape)), prepared)


@pytest.fixture(scope="module")
def study(light_detector, exported, window):
    return Study(light_detector, load_onnx(exported()), window("crowd", 256, 320, 300, 300))


def test_rows_that_fill_up_the_output_count_only_if_asked_for(small, small_detector, tmp_path):
    """Of 20 detections, half have a higher score than the detector asks for."""
    least = float(np.sort(small.sound.scores)[9:11].mean())
    detector = small_detector(change=lambda model: model.test_cfg.rcnn.update(score_thr=least))
    model = load_onnx(export.export_onnx(detector, tmp_path / "x.onnx", input_shape=small.prepared.tensor.shape))
    report = search(detector, model, small.prepared)
    assert len(report.recordings["inference"].found) == 10
    with pytest.raises(NoDisagreementError):
        report.culprit()
    report = search(detector, model, small.prepared, recordings=report.recordings, drop_padding=False)
    assert report.culprit().symptom in ("dets", "labels")  # whichever the graph makes first


@pytest.mark.slow
def test_the_search_finds_both_defects_of_the_unpatched_export_in_order(study, exported):
    needed = export.NEEDED["standard"]
    same_inference = {"inference": study.recordings["inference"]}

    def culprit(*applied: str):
        model = load_onnx(exported(applied=(*needed, *applied)))
        return search(study.detector, model, study.prepared, recordings=same_inference).culprit()

    first = culprit()
    assert (first.operator, first.reference) == ("NonMaxSuppression", "inference")
    assert any("rpn_head" in line for line in first.where.lines)
    assert culprit("p07_rpn_levels_apart").where.scope == "roi_head.bbox_roi_extractor.roi_layers.0"


@pytest.mark.slow
def test_boxes_clipped_to_the_padding_are_found_where_they_are_clipped(light_detector, exported):
    """The picture in it is 240 x 320. Inference decodes all levels at once, the graph each by itself."""
    prepared = prepare(read_picture(DATA / "demo" / "shelf.jpg"), (256, 320))
    applied = (*export.NEEDED["standard"], "p07_rpn_levels_apart", "p08_roi_align_half_pixel")
    report = search(light_detector, load_onnx(exported(applied=applied)), prepared)
    assert "dynamic_clip_for_onnx" in report.culprit().where.lines[0]
    assert search(light_detector, load_onnx(exported()), prepared).found is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "operator"),
    [
        # Beside the scatter, index arithmetic has inputs that agree as well, and no counterpart.
        ("constant", "ScatterND"),
        # The lowest scores are zeros, like many a tensor, and their places 0 to 19, as PyTorch counts elsewhere.
        ("attribute", "TopK"),
    ],
)
def test_a_node_is_held_to_what_its_own_line_made(light_detector, exported, window, kind, operator):
    study = Study(light_detector, load_onnx(exported()), window("huge", 256, 320, 0, 0))
    some = [fault for fault in study.faults if (fault.kind, fault.operator) == (kind, operator)]
    row = next(row for row in map(study.verdict, reversed(some)) if row["verdict"] != "harmless")
    assert row["verdict"] == "node", row


#: Changes that once were named too late, or stopped the search, and plain ones.
FAULTS = [
    *(("order", operator) for operator in ("Conv", "Gemm", "ConvTranspose", "Transpose", "Concat")),
    *(("infinity", "Conv"), ("attribute", "RoiAlign"), ("constant", "Mul")),
    ("attribute", "Softmax"),
]


@pytest.mark.parametrize(("kind", "operator"), FAULTS)
def test_a_planted_fault_is_named_to_the_node(small, kind, operator):
    some = [fault for fault in small.faults if (fault.kind, fault.operator) == (kind, operator)]
    # Not every change changes what is found: of two equal channels, say, or of classes that are not there.
    row = next(row for row in map(small.verdict, some) if row["verdict"] != "harmless")
    assert row["verdict"] == "node", row


def test_the_search_refuses_another_models_graph_and_a_wrong_input(small):
    foreign = onnx.ModelProto()
    foreign.CopyFrom(small.index.model)
    foreign.graph.node[5].doc_string = "backbone.no_such_module"
    with pytest.raises(ForeignGraphError):
        search(small.detector, foreign, small.prepared)
    narrow = dataclasses.replace(small.prepared, tensor=np.ascontiguousarray(small.prepared.tensor[:, :, :8]))
    with pytest.raises(GraphInputError, match="takes float32"):
        search(small.detector, small.index.model, narrow, recordings=small.recordings)


def test_a_detector_without_masks_is_refused(small):
    without = types.SimpleNamespace(with_mask=False)
    with pytest.raises(NoMasksError, match="model with masks"):
        search(without, small.index.model, small.prepared)
