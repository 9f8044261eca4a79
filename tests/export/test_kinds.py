"""Rows of the table of mmdet's models (docs/MODELS.md), one a kind, as its script measures them, at a smaller input and
with a fraction of the channels where a backbone takes any."""

from __future__ import annotations

from typing import Any

import pytest
from mmcv import Config

from scripts import measure_models

#: Channels are divided by this; what is no multiple of it stays.
SMALLER = 8
CHANNELS = {
    "channels",
    "conv_out_channels",
    "embed_dims",
    "fc_out_channels",
    "feat_channels",
    "in_channels",
    "out_channels",
}
RESNETS = ("ResNet", "ResNeXt", "Res2Net")


def smaller(part: Any, name: str = "") -> Any:
    """A part of a model's config with fewer channels and groups, and all of its layers."""
    if isinstance(part, dict):
        part = {key: smaller(value, key) for key, value in part.items()}
        if part.get("type") in RESNETS:
            part |= {"base_channels": 64 // SMALLER, "stem_channels": 64 // SMALLER}
        return part
    if isinstance(part, (list, tuple)):
        return type(part)(smaller(value, name) for value in part)
    if name in CHANNELS and part % SMALLER == 0:
        return part // SMALLER
    return min(part, 4) if name in ("num_groups", "groups") else part


@pytest.fixture
def row(tmp_path, monkeypatch):
    """A function of a kind and parts: the row of the table."""
    monkeypatch.setattr(measure_models, "SHAPE", (128, 160))

    def measured(kind: str, *parts: str) -> dict[str, Any]:
        original = measure_models.configs_folder() / measure_models.CONFIGS[kind]
        model = Config.fromfile(str(original)).model.to_dict()
        if model["backbone"]["type"] in (*RESNETS, "SwinTransformer"):
            model = smaller(model)
        config = tmp_path / original.parent.name / original.name
        config.parent.mkdir()
        config.write_text(f"_base_ = {str(original)!r}\nmodel = dict(_delete_=True, **{model!r})\n")
        return measure_models.measure(config, tmp_path, parts)

    return measured


LIFTED = ["Libra Faster R-CNN", "Double-Head R-CNN", "Mask R-CNN, GRoIE", "Mask R-CNN, strong baseline"]
QUICK = [
    "Faster R-CNN, ResNet-50",
    "Mask R-CNN, caffe style",
    "Cascade Mask R-CNN",
    "Faster R-CNN, PAFPN",
    "Mask R-CNN, group norm and weight standardization",
    *LIFTED,
]
SLOW = ["Faster R-CNN, ResNeXt", "Faster R-CNN, Res2Net", "Faster R-CNN, RegNet 400 MF", "Faster R-CNN, HRNet"]


@pytest.mark.parametrize("kind", [*QUICK, *(pytest.param(kind, marks=pytest.mark.slow) for kind in SLOW)])
def test_a_row_that_agrees(row, kind):
    found = row(kind, "standard")
    assert found["standard"]["verdict"] == "agrees", found
    assert found["standard"]["matched"] > 20


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [*LIFTED, "Cascade Mask R-CNN", "Mask R-CNN, Swin", "Mask R-CNN, group norm and weight standardization"]
)
def test_what_has_a_patch_of_its_own_agrees_in_the_other_flavour_and_in_batches(row, kind):
    found = row(kind, "mmcv", "batch")
    assert found["mmcv"]["verdict"] == found["batch"]["verdict"] == found["batch"]["batch"]["verdict"] == "agrees", (
        found
    )
    assert found["half"]["verdict"] == "finite", found


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("Deformable convolution", "is a DeformConv2dPack, an operator of mmcv that no runtime here has"),
        ("SABL", "roi_head.bbox_head.type = SABLHead is not exported: its boxes or scores are not those of BBoxHead"),
        ("Faster R-CNN, soft NMS", "test_cfg.rcnn.nms.type = soft_nms is not exported"),
        ("Hybrid Task Cascade", "model.type = HybridTaskCascade is not exported"),
        ("PointRend", "model.type = PointRend is not exported"),
        ("Mask Scoring R-CNN", "model.type = MaskScoringRCNN is not exported"),
    ],
)
def test_a_row_that_is_refused_has_its_sentence(row, kind, words):
    found = row(kind, "standard")
    assert found["build"]["verdict"] == "refused"
    assert words in found["build"]["sentence"]
    assert "standard" not in found
