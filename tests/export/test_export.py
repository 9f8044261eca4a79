"""Export and ONNX Runtime, on the embedded model's architecture at a small input with random weights."""

from __future__ import annotations

import copy
import errno
import functools

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import patches
from helpers.artifacts import DiskSpaceError
from helpers.compare.parity import Parity, Tolerance, compare
from helpers.compare.search import search
from helpers.detector.inference import detect_prepared
from helpers.detector.models import build_random_detector
from helpers.detector.preprocess import NetworkInput, prepare, read_picture
from helpers.export import exporter as export
from helpers.graph import detect
from helpers.graph.file import OnnxFileError, load_onnx
from helpers.graph.frozen_batch import BatchCheckError
from helpers.graph.onnx_runtime import OnnxRunner
from helpers.graph.origins import origin
from helpers.graph.runner import RunnerError
from helpers.paths import DATA
from patches.p07_rpn_levels_apart import move_apart

SHAPE = (1, 3, 256, 320)


@pytest.fixture(scope="module")
def detector():
    return build_random_detector("emoji")


@pytest.fixture(scope="module")
def tensor():
    return (np.random.default_rng(1).standard_normal(SHAPE) * 1.2).astype(np.float32)


@pytest.fixture(scope="module")
def feeds(tensor):
    return detect.feeds([NetworkInput.full(tensor)])


@pytest.fixture(scope="module")
def files(detector, tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx")

    @functools.cache
    def make(flavour: str, applied: tuple[str, ...] | None = None):
        path = folder / f"{flavour}-{len(applied or ())}.onnx"
        return export.export_onnx(detector, path, flavour, applied=applied, input_shape=SHAPE)

    return make


def test_both_flavours_have_their_operators_shapes_and_origins(files):
    for flavour, opset, roi_align in (("standard", 16, "RoiAlign"), ("mmcv", 11, "MMCVRoiAlign")):
        model = load_onnx(files(flavour))
        operators = [node.op_type for node in model.graph.node]
        assert {o.domain: o.version for o in model.opset_import}[""] == opset
        assert operators.count(roi_align) == 8
        assert operators.count("NonMaxSuppression") == 2
        assert operators.count("GridSample" if flavour == "standard" else "grid_sampler") == 1
        shapes = {o.name: [d.dim_value for d in o.type.tensor_type.shape.dim] for o in model.graph.output}
        assert shapes == {"dets": [1, 100, 5], "labels": [1, 100], "masks": [1, 100, *SHAPE[2:]]}
        names = [node.name for node in model.graph.node]
        assert len(set(names)) == len(names)
        for node in model.graph.node:
            if node.op_type in ("Conv", "Gemm", roi_align, "NonMaxSuppression", "TopK"):
                assert origin(node).lines, node.name
        assert not any(word in node.doc_string for node in model.graph.node for word in ("site-packages", "frozen"))
        nms = next(node for node in model.graph.node if node.op_type == "NonMaxSuppression")
        assert any("rpn_head" in line for line in origin(nms).lines)


def test_the_flavours_compute_the_same(files, feeds):
    standard, mmcv = (OnnxRunner(files(flavour)).run(feeds) for flavour in ("standard", "mmcv"))
    np.testing.assert_allclose(standard["dets"], mmcv["dets"], atol=1e-3)
    np.testing.assert_array_equal(standard["labels"], mmcv["labels"])


def test_exporting_leaves_no_trace(detector, files):
    files("standard")
    state = torch.random.get_rng_state()
    assert "forward" not in vars(detector)
    assert not any(patch.applied for patch in patches.overview())
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize(("flavour", "opset"), [("tensorrt", None), ("standard", 11), ("mmcv", 16)])
def test_unknown_flavours_and_opsets_are_refused(detector, tmp_path, flavour, opset):
    with pytest.raises(export.UnknownFlavourError):
        export.export_onnx(detector, tmp_path / "x.onnx", flavour, opset=opset)
    assert list(tmp_path.iterdir()) == []


def test_whatever_a_graph_depends_on_is_recorded(small_detector, monkeypatch):
    detector = small_detector()
    names = export.CORRECT["standard"]

    def inputs():
        return export.export_inputs(detector, "standard", names)

    first = inputs()
    assert inputs() == first
    detector.roi_head.test_cfg.max_per_img = 50
    changed = inputs()
    assert {key for key in first if first[key] != changed[key]} == {"settings"}
    # Of a cascade, every stage, with all digits of its numbers.
    head = detector.roi_head.bbox_head
    detector.roi_head.bbox_head = torch.nn.ModuleList([head, copy.deepcopy(head)])
    stages = inputs()
    detector.roi_head.bbox_head[1].bbox_coder.stds = (0.1, 0.1, 0.2, 0.2 + 1e-7)
    assert {key for key in first if stages[key] != inputs()[key]} == {"settings"}
    detector.roi_head.bbox_head = head
    # A function that the patched code calls, in the patch's module or in one that it imports.
    sources = export.artifacts.module_sources
    assert set(sources("patches.p12_cascade_mask_mean")) == {"patches.p12_cascade_mask_mean", "patches.p11_no_ghosts"}
    monkeypatch.setattr(export.artifacts, "module_sources", lambda name: sources(name) | {"edited": name})
    assert {key for key in first if changed[key] != inputs()[key]} == {"patch_sources"}


def test_a_batch_that_the_model_holds_fast_is_refused_with_the_node_named(small_detector, tmp_path):
    detector = small_detector()
    features = detector.extract_feat
    # As a windowed-attention backbone does it: the number of pictures becomes a number of the graph.
    detector.extract_feat = lambda image: [
        level.view(int(image.shape[0]), *level.shape[1:]) for level in features(image)
    ]
    with pytest.raises(BatchCheckError, match=r"2 nodes hold the traced batch, first Reshape /Reshape: 3 in the batch"):
        export.export_onnx(detector, tmp_path / "x.onnx", input_shape=(3, 3, 64, 96), **export.dynamic_options())
    assert list(tmp_path.iterdir()) == []


def test_a_simplification_that_changes_the_answer_is_refused(small_detector, small_input, tmp_path, monkeypatch):
    def damage(model, **_):
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        bias = next(one for one in changed.graph.initializer if one.name.endswith("bbox_head.fc_reg.bias"))
        bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 0.5, bias.name))
        export._require_same(model, model, [small_input()])
        return changed, True

    monkeypatch.setattr(export.onnxsim, "simplify", damage)
    with pytest.raises(export.ExportError, match="the simplified graph computes something else: export with"):
        export.export_onnx(small_detector(), tmp_path / "x.onnx", input_shape=(1, 3, 64, 96), probes=[small_input()])
    assert list(tmp_path.iterdir()) == []


def test_a_simplified_graph_that_stops_is_refused(small_detector, small_input, tmp_path, monkeypatch):
    def damage(model, **_):
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        weight = next(one for one in changed.graph.initializer if one.name.endswith("bbox_head.fc_reg.weight"))
        weight.CopyFrom(onnx.numpy_helper.from_array(np.zeros((4, 3), np.float32), weight.name))
        return changed, True

    monkeypatch.setattr(export.onnxsim, "simplify", damage)
    with pytest.raises(export.ExportError, match="stops where the traced one runs: export with simplify=False"):
        export.export_onnx(small_detector(), tmp_path / "x.onnx", input_shape=(1, 3, 64, 96), probes=[small_input()])


def test_a_picture_in_which_nothing_is_found_proves_nothing():
    def graph(label):
        return onnx.parser.parse_model(f"""
            <ir_version: 8, opset_import: ["" : 16]>
            g (float[1,1,1,5] input) => (float[1,1,5] dets, int64[1,1] labels) <int64[1,1] labels = {{{label}}}> {{
                axis = Constant<value_ints = [1]>()
                dets = Squeeze(input, axis)
            }}""")

    def picture(*row):
        return NetworkInput.full(np.array(row, np.float32).reshape(1, 1, 1, 5))

    nothing, unsure, one = picture(0, 0, 0, 0, 0), picture(0, 0, 9, 9, 0.2), picture(0, 0, 9, 9, 0.9)
    waiting = iter([nothing, unsure, one, "not looked at"])
    export._require_same(graph(3), graph(3), waiting)
    assert list(waiting) == ["not looked at"]
    with pytest.raises(export.ExportError, match="the simplified graph computes something else"):
        export._require_same(graph(3), graph(4), [nothing, unsure, one])
    with pytest.raises(export.ExportError, match="have no object that the traced graph is sure of: check it on others"):
        export._require_same(graph(3), graph(4), [nothing, unsure])


def test_a_small_objects_mask_counts_as_much_as_a_large_ones():
    masks = np.zeros((2, 800, 1216), np.float32)
    masks[0, :20, :20] = masks[1, :400, :400] = 1
    other = masks.copy()
    other[0, :1, :2] = 0
    assert export._near(masks, other)
    other[0] = 0
    assert not export._near(masks, other)


def test_the_first_file_of_a_model_is_checked_on_a_picture(small_detector, tmp_path, monkeypatch):
    def note(detector, path, flavour, *, probes, **_):
        path.write_bytes(b"x")
        given.append(probes and list(probes))

    monkeypatch.setenv("COURSE_BUILD", str(tmp_path))
    monkeypatch.setattr(export, "export_onnx", note)
    given, detector = [], small_detector()
    for flavour, label in (("standard", ""), ("standard", "half"), ("mmcv", "")):
        export.make_onnx("emoji", flavour, label=label, detector=detector, input_shape=(1, 3, 64, 96))
    assert given[1:] == [None, None]
    assert [probe.tensor.shape for probe in given[0]] == [(1, 3, 64, 96)] * 8


def test_a_full_disk_is_not_a_patchs_fault(small_detector, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(export, "_trace", full)
    with pytest.raises(DiskSpaceError, match=r"no disk space left while writing .*x\.onnx"):
        export.export_onnx(small_detector(), tmp_path / "x.onnx", input_shape=(1, 3, 64, 96))
    assert list(tmp_path.iterdir()) == []


def test_an_operator_that_onnx_runtime_does_not_know_is_named():
    node = onnx.helper.make_node("MMCVModulatedDeformConv2d", ["x"], ["y"], domain="mmcv")
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 2]) for name in "xy"]
    opsets = [onnx.helper.make_opsetid("", 16), onnx.helper.make_opsetid("mmcv", 1)]
    graph = onnx.helper.make_graph([node], "g", values[:1], values[1:])
    with pytest.raises(RunnerError, match="has no operator MMCVModulatedDeformConv2d"):
        OnnxRunner(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8))


def test_a_failed_export_leaves_the_earlier_file(detector, tmp_path, monkeypatch):
    path = tmp_path / "x.onnx"
    path.write_bytes(b"earlier")

    def fail(*_, **__):
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(export.ExportError, match="broken on purpose"):
        export.export_onnx(detector, path, input_shape=SHAPE)
    assert path.read_bytes() == b"earlier"
    assert [file.name for file in tmp_path.iterdir()] == ["x.onnx"]


def test_damaged_files_and_wrong_requests_are_named(files, tensor, feeds, tmp_path):
    whole = files("standard").read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"no onnx at all"):
        (tmp_path / "cut.onnx").write_bytes(content)
        with pytest.raises(OnnxFileError, match=r"cut\.onnx"):
            OnnxRunner(tmp_path / "cut.onnx")
    with pytest.raises(OnnxFileError, match="cannot read"):
        OnnxRunner(tmp_path / "absent.onnx")
    runner = OnnxRunner(files("standard"))
    with pytest.raises(RunnerError, match=r"takes float32 \[1, 3, 256, 320\] as 'input', got float32 \[1, 3, 8, 8\]"):
        runner.run(feeds | {"input": np.zeros((1, 3, 8, 8), np.float32)})
    with pytest.raises(RunnerError, match="no output 'proposals'"):
        runner.run(feeds, ["proposals"])
    with pytest.raises(RunnerError, match="stopped inside the graph .*RoiAlign"):
        runner.run(feeds | {"input": np.full_like(tensor, np.nan)})


@pytest.mark.slow
def test_the_official_architecture_in_both_flavours_and_the_search_on_it(tmp_path):
    # Random weights: no checkpoint can be fetched where the tests run. At the full input size, as it is deployed.
    detector = build_random_detector("r50")
    prepared = prepare(read_picture(DATA / "demo" / "crowd.jpg"))
    expected = detect_prepared(detector, prepared, rescale=False)
    assert len(expected) == 100

    def exported(flavour: str, applied: tuple[str, ...]) -> onnx.ModelProto:
        return load_onnx(export.export_onnx(detector, tmp_path / "x.onnx", flavour, applied=applied))

    def parity(model: onnx.ModelProto) -> Parity:
        # Boxes of class 62 are moved by 62 * 1217 px for their NMS, where float32 has a step of 1/128 px. Random masks
        # have borders everywhere, and each moves with its box.
        return compare(expected, detect.detect_prepared(OnnxRunner(model), prepared), Tolerance(mask_iou=0.98))

    needed = export.NEEDED["standard"]
    unpatched = exported("standard", needed)
    assert not parity(unpatched).agrees
    report = search(detector, unpatched, prepared)
    assert report.culprit().operator == "NonMaxSuppression"
    assert any("rpn_head" in line for line in report.culprit().where.lines)
    inference = {"inference": report.recordings["inference"]}
    levels = exported("standard", (*needed, "p07_rpn_levels_apart"))
    report = search(detector, levels, prepared, recordings=inference)
    assert report.culprit().where.scope.startswith("roi_head.bbox_roi_extractor.roi_layers")
    correct = exported("standard", export.CORRECT["standard"])
    parity(correct).require()
    assert search(detector, correct, prepared, recordings=inference).found is None
    parity(exported("mmcv", export.CORRECT["mmcv"])).require()


@settings(max_examples=60)
@given(st.integers(1, 40), st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from([4.0, 64.0, 1216.0]))
def test_moved_apart_levels_are_suppressed_as_batched_nms_does(count, seed, touch_the_border, size):
    from mmcv.ops import batched_nms, nms

    random = np.random.default_rng(seed)
    corners = np.sort(random.uniform(0, size, (count, 2, 2)), axis=1)
    boxes = torch.tensor(corners.reshape(count, 4), dtype=torch.float32)
    if touch_the_border:
        boxes[:, 2:] = torch.where(boxes[:, 2:] > size / 2, torch.tensor(size), boxes[:, 2:])
    # Level 2 is always empty.
    levels = torch.tensor(random.choice([0, 1, 3, 4], count))
    scores = torch.tensor(random.permutation(count) + 1, dtype=torch.float32) / (count + 1)
    _, expected = batched_nms(boxes, scores, levels, {"type": "nms", "iou_threshold": 0.7})
    shifted = move_apart(boxes[None], levels[None, :, None])[0]
    _, kept = nms(shifted, scores, 0.7)
    assert kept.tolist() == expected.tolist()
    apart = [nms(boxes[levels == level], scores[levels == level], 0.7)[1] for level in levels.unique()]
    assert len(kept) == sum(len(indices) for indices in apart)
