"""The table of settings, row by row: what it calls exported agrees with PyTorch, what it refuses is one sentence."""

from __future__ import annotations

import copy
import re

import numpy as np
import pytest
import torch
from mmcv.cnn import build_upsample_layer
from mmdet.core import build_prior_generator
from mmdet.models.builder import build_roi_extractor
from torch import nn

from helpers.compare.parity import Tolerance, compare
from helpers.detector.inference import detect_prepared
from helpers.detector.models import load_config
from helpers.export import exporter as export
from helpers.export.settings import UnsupportedSettingError, require_supported, rows, table, values_at, verdicts
from helpers.graph import detect
from helpers.graph.onnx_runtime import OnnxRunner

#: Nothing of these can be varied alone: they go with something else (the pyramid, the box head), or only reorder.
NOT_VARIED = {
    "rpn_head.anchor_generator.strides",
    "rpn_head.anchor_generator.scale_major",
    "rpn_head.anchor_generator.scales_per_octave",
    "roi_head.bbox_roi_extractor.roi_layer.output_size",
}
# Random masks have borders everywhere, and each moves with the last digit of its box.
# What scores below 0.05 counts here too: score_thr is one of the settings.
RANDOM_MASKS = Tolerance(mask_iou=0.98, score_floor=2e-4)
ANCHORS = {"type": "AnchorGenerator", "strides": [4, 8], "ratios": [0.5, 1.0, 2.0], "scales": [4]}


def extractor(size: int) -> dict:
    layer = {"type": "RoIAlign", "output_size": size, "sampling_ratio": 0}
    return {
        "type": "SingleRoIExtractor",
        "roi_layer": layer,
        "out_channels": 16,
        "featmap_strides": [4, 8],
        "finest_scale": 14,
    }


def changed(detector, values):
    """A copy of the detector with other settings, {key: value}, as if it had been built with them."""
    detector = copy.deepcopy(detector)
    parts = {
        "rpn_head.anchor_generator": copy.deepcopy(ANCHORS),
        "roi_head.bbox_roi_extractor": extractor(7),
        "roi_head.mask_roi_extractor": extractor(14),
    }
    for row in table():
        if row.key not in values:
            continue
        value = copy.deepcopy(values[row.key])
        part = next((part for part in parts if row.key.startswith(f"{part}.")), None)
        name = row.key.rpartition(".")[2]
        if part:
            arguments = parts[part]["roi_layer"] if ".roi_layer." in row.key else parts[part]
            arguments[name] = value
            if name == "octave_base_scale":
                arguments.update(scales=None, scales_per_octave=1)
            continue
        parent, _, attribute = row.at.rpartition(".")
        for owner in values_at(detector, parent):
            for one in owner if isinstance(owner, nn.ModuleList) else (owner,):
                if isinstance(one, dict):
                    one[attribute] = value
                else:
                    setattr(one, attribute, value)
        torch.manual_seed(0)
        if name == "use_sigmoid" and not value:
            old = detector.rpn_head.rpn_cls
            detector.rpn_head.cls_out_channels = 2
            detector.rpn_head.rpn_cls = new = nn.Conv2d(16, 6, 1)
            new.weight.data.normal_(0, old.weight.std().item())
        elif name == "reg_class_agnostic" and value:
            old = detector.roi_head.bbox_head.fc_reg
            detector.roi_head.bbox_head.fc_reg = new = nn.Linear(32, 4)
            new.weight.data.copy_(old.weight[:4])
        elif row.key == "roi_head.mask_head.upsample_cfg.type":
            align = {} if value == "nearest" else {"align_corners": False}
            detector.roi_head.mask_head.upsample = build_upsample_layer(
                {"type": value, "scale_factor": 2, "mode": value, **align}
            )
    detector.rpn_head.prior_generator = build_prior_generator(parts["rpn_head.anchor_generator"])
    for name in ("bbox_roi_extractor", "mask_roi_extractor"):
        setattr(detector.roi_head, name, build_roi_extractor(parts[f"roi_head.{name}"]))
    return detector.eval()


@pytest.fixture(scope="module")
def detector(small_detector):
    return small_detector()


def outcome(detector, prepared):
    found = detect_prepared(detector, prepared, rescale=False)
    return found.boxes, found.scores, found.labels, found.masks


STANDARD = [row for row in table() if row.roi_head in ("", "StandardRoIHead")]


def column(number):
    return {row.key: row.exported[number] for row in STANDARD if row.exported[number : number + 1] not in ((), (None,))}


# The third column has the only value that needs mmcv's operators; all else in it is as in the first.
@pytest.mark.parametrize(
    ("values", "flavour"),
    [(column(0), "standard"), (column(1), "standard"), (column(0) | column(2), "mmcv")],
    ids=["first", "second", "third"],
)
def test_what_the_table_calls_exported_agrees(detector, small_input, tmp_path, values, flavour):
    """One export with all of a column's values at once. That none of them can be ignored: the test below."""
    prepared = small_input()
    with_all = changed(detector, values)
    require_supported(with_all, flavour)
    found = detect_prepared(with_all, prepared, rescale=False)
    file = export.export_onnx(with_all, tmp_path / "x.onnx", flavour, input_shape=prepared.tensor.shape)
    parity = compare(found, detect.detect_prepared(OnnxRunner(file), prepared), RANDOM_MASKS)
    parity.require()
    assert len(parity.pairs) == len(found) >= 4


@pytest.mark.slow
def test_every_value_that_is_exported_changes_what_pytorch_finds_among_the_others(detector, small_input):
    """So an export that ignored one of them could not agree in the test above."""
    prepared = small_input()
    counts = set()
    for values in (column(0), column(1)):
        expected = outcome(changed(detector, values), prepared)
        for key in values.keys() - NOT_VARIED - counts:
            now = outcome(changed(detector, {name: value for name, value in values.items() if name != key}), prepared)
            if not all(np.array_equal(a, b) for a, b in zip(expected, now, strict=True)):
                counts.add(key)
    # The mode that mmcv's operators alone have is in the third column.
    expected = {
        row.key for row in STANDARD if row.inference and any(value is not None for value in row.exported[:2])
    } - NOT_VARIED
    assert counts == expected


@pytest.mark.parametrize(
    "row", [row for row in table() if row.refused], ids=lambda row: f"{row.key}{'*' * bool(row.roi_head)}"
)
def test_what_the_table_refuses_is_one_sentence_with_key_value_and_next_step(detector, row):
    for value in row.refused:
        subject = copy.deepcopy(detector)
        if row.roi_head not in ("", "StandardRoIHead"):
            subject.roi_head.__class__ = type(row.roi_head, (type(subject.roi_head),), {})
        parent, _, attribute = row.at.rpartition(".")
        if attribute == "__name__":
            for one in values_at(subject, parent.rpartition(".")[0]):
                # Another class of the same parts: only the name counts.
                one.__class__ = type(value, (type(one),), {"__module__": type(one).__module__})
        else:
            for owner in values_at(subject, parent):
                for one in owner if isinstance(owner, nn.ModuleList) else (owner,):
                    if isinstance(one, dict):
                        one[attribute] = value
                    elif isinstance(getattr(type(one), attribute, None), property):
                        one.__class__ = type(type(one).__name__, (type(one),), {attribute: value})
                    else:
                        object.__setattr__(one, attribute, value)
        with pytest.raises(UnsupportedSettingError) as caught:
            require_supported(subject)
        assert caught.value.problem.startswith(f"{row.key} = {value} is not exported: {row.why}")
        assert caught.value.next_step == row.next_step


def test_every_row_is_tested_and_says_what_to_do():
    for row in table():
        assert row.exported or row.refused or row.key in NOT_VARIED | {"test_cfg.rpn.nms", "test_cfg.rcnn.nms"}, row.key
        assert bool(row.why) == bool(row.next_step), row.key
        assert row.why or "any" in row.takes or set(row.takes["values"]) == {True, False}, row.key
        assert all(row.accepts(value, "mmcv") for value in row.exported if value is not None), row.key
        assert not any(row.accepts(value, "standard") for value in row.refused), row.key


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: d.roi_head.test_cfg.update(fuse=3), r"test_cfg\.rcnn\.fuse = 3 is not known"),
        (lambda d: d.rpn_head.test_cfg.nms.update(sigma=0.5), r"test_cfg\.rpn\.nms\.sigma = 0\.5 is not known"),
        (lambda d: d.test_cfg.update(panoptic={"a": 1}), r"test_cfg\.panoptic = .* is not known"),
        (lambda d: d.rpn_head.test_cfg.pop("max_per_img"), r"test_cfg\.rpn\.max_per_img is missing"),
        (lambda d: d.rpn_head.test_cfg.nms.pop("iou_threshold"), r"test_cfg\.rpn\.nms\.iou_threshold is missing"),
        (lambda d: d.roi_head.test_cfg.update(nms=None), r"test_cfg\.rcnn\.nms = None is not exported"),
    ],
)
def test_unknown_and_missing_keys_are_refused_before_anything_is_done(detector, tmp_path, change, sentence):
    subject = copy.deepcopy(detector)
    change(subject)
    with pytest.raises(UnsupportedSettingError, match=sentence):
        export.export_onnx(subject, tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_detector_without_masks_lacks_no_mask_setting(small_detector):
    def no_masks(model):
        model.type = "FasterRCNN"
        del model.roi_head.mask_head, model.roi_head.mask_roi_extractor, model.test_cfg.rcnn.mask_thr_binary

    require_supported(small_detector(5, no_masks))


def test_a_config_is_judged_as_its_detector_would_be():
    config = load_config("emoji")
    assert {verdict.verdict for verdict in verdicts(config)} == {"exported"}
    config.model.test_cfg.rcnn.max_per_img = -1
    config.model.backbone.update(
        depth=50, dcn={"type": "DCN", "deform_groups": 1}, stage_with_dcn=(False,) * 3 + (True,)
    )
    config.model.neck.in_channels = [160, 320, 640, 1280]
    refused = [verdict.sentence for verdict in verdicts(config) if verdict.verdict == "refused"]
    assert refused[0].startswith("test_cfg.rcnn.max_per_img = -1 is not exported")
    assert re.fullmatch(r"backbone\.layer4\.0\.conv2 is a DeformConv2dPack, an operator .*", refused[1])


def test_a_reader_gets_the_table():
    shown = rows()
    assert len(shown) == len(table())
    pool = next(row for row in shown if row["key"] == "roi_head.bbox_roi_extractor.roi_layer.pool_mode")
    assert (pool["exported (standard)"], pool["exported (mmcv)"]) == ("avg", "avg, max")
