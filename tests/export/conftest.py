"""A two-stage detector small enough to be exported in about two seconds, for what its heads and settings do."""

from __future__ import annotations

import logging
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

SHAPE = (1, 3, 64, 96)


def _build(classes: int = 5, change: Callable[[Any], None] | None = None) -> Any:
    """The embedded model's heads at 16 channels, on two pyramid levels that a single convolution and pooling make."""
    from mmdet.models import build_detector

    from helpers.detector.models import load_config

    model = load_config("emoji").model
    model.neck = None
    model.rpn_head.update(in_channels=16, feat_channels=16)
    model.rpn_head.anchor_generator.update(strides=[4, 8], scales=[4])
    for extractor in (model.roi_head.bbox_roi_extractor, model.roi_head.mask_roi_extractor):
        extractor.update(out_channels=16, featmap_strides=[4, 8], finest_scale=14)
    model.roi_head.bbox_head.update(in_channels=16, fc_out_channels=32, num_classes=classes)
    model.roi_head.mask_head.update(in_channels=16, conv_out_channels=16, num_classes=classes, num_convs=1)
    model.test_cfg.rpn.update(nms_pre=200, max_per_img=100)
    model.test_cfg.rcnn.update(max_per_img=20)
    if change:
        change(model)
    try:
        logging.disable(logging.INFO)  # mmcv logs a paragraph for every weight
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            detector = build_detector(model)
            detector.backbone = nn.Conv2d(3, 16, 3, padding=1)
            detector.init_weights()
            heads = detector.roi_head.bbox_head
            heads = list(heads) if isinstance(heads, nn.ModuleList) else [heads]
            layers = [(detector.rpn_head.rpn_cls, 60), (detector.rpn_head.rpn_reg, 20)]
            # Scores that spread over (0, 1), as helpers.detector.models.build_random_detector does it and says why.
            for layer, gain in [*layers, *((h.fc_cls, 60) for h in heads), *((h.fc_reg, 60) for h in heads)]:
                layer.weight.mul_(gain)
            if detector.with_mask:
                masks = detector.roi_head.mask_head
                for head in masks if isinstance(masks, nn.ModuleList) else [masks]:
                    head.conv_logits.bias.fill_(1.0)
    finally:
        logging.disable(logging.NOTSET)

    def extract_feat(self: Any, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        features = self.backbone(image).relu() * 2
        return tuple(nn.functional.avg_pool2d(features, stride) for stride in (4, 8))

    detector.extract_feat = types.MethodType(extract_feat, detector)
    return detector.eval()


@pytest.fixture(scope="session")
def small_detector():
    """A function of the number of classes and of a change to the model's config."""
    return _build


@pytest.fixture(scope="session")
def small_input():
    """A function of a seed: a prepared picture of noise that fills the input of (1, 3, 64, 96)."""
    from helpers.detector.preprocess import NetworkInput

    def make(seed: int = 1) -> Any:
        noise = np.random.default_rng(seed).standard_normal(SHAPE)
        return NetworkInput.full((noise * 1.2).astype(np.float32))

    return make
