"""Trained models of other kinds, made of the embedded one by converting its weights: real detections at a real input,
where random weights would find noise.

``python tests/support/variants.py FOLDER`` writes them, to be tried with ``maskrcnn-course prove``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import mmcv
import torch

from helpers import paths
from helpers.detector.models import model_spec, read_checkpoint

State = dict[str, torch.Tensor]

BASE = f"_base_ = {str(paths.MODELS / 'emoji' / 'mask_rcnn_emoji.py')!r}\n"
CAFFE = """
_norm = dict(type="Normalize", mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)
_steps = [dict(type="Resize", keep_ratio=True), _norm, dict(type="Pad", size_divisor=32),
          dict(type="ImageToTensor", keys=["img"]), dict(type="Collect", keys=["img"])]
model = dict(backbone=dict(style="caffe"))
data = dict(test=dict(pipeline=[dict(type="LoadImageFromFile"),
    dict(type="MultiScaleFlipAug", img_scale=(1216, 800), flip=False, transforms=_steps)]))
"""
ONE_CLASS = "model = dict(roi_head=dict(bbox_head=dict(num_classes=1), mask_head=dict(num_classes=1)))\n"
STDS = ([0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067])
CASCADE = f"""
_head = dict(type="Shared2FCBBoxHead", in_channels=96, fc_out_channels=384, roi_feat_size=7, num_classes=80,
             reg_class_agnostic=True)
_heads = [dict(bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=stds), **_head)
          for stds in {STDS}]
model = dict(type="CascadeRCNN", train_cfg=None, roi_head=dict(
    type="CascadeRoIHead", num_stages=3, stage_loss_weights=[1, 0.5, 0.25], bbox_head=_heads))
"""


def caffe(state: State) -> State:
    """The same function of a picture: blue first, and no deviation to divide by, so that the first weights are."""
    first = state["backbone.conv1.weight"]
    deviation = first.new_tensor([58.395, 57.12, 57.375]).view(1, 3, 1, 1)
    return {**state, "backbone.conv1.weight": (first / deviation).flip(1)}


def one_class(state: State, label: int) -> State:
    """A class and the background: the rows of all others are left out."""
    state = dict(state)
    for name in ("weight", "bias"):
        state[f"roi_head.bbox_head.fc_cls.{name}"] = state[f"roi_head.bbox_head.fc_cls.{name}"][[label, 80]]
        state[f"roi_head.bbox_head.fc_reg.{name}"] = state[f"roi_head.bbox_head.fc_reg.{name}"].unflatten(0, (80, 4))[
            label
        ]
        state[f"roi_head.mask_head.conv_logits.{name}"] = state[f"roi_head.mask_head.conv_logits.{name}"][[label]]
    return state


def cascade(state: State) -> State:
    """Each stage has the one trained head, with the mean of its classes' regressors (a cascade has one for all), in
    units of its own deviations."""
    made = {name: tensor for name, tensor in state.items() if not name.startswith("roi_head.")}
    for name, tensor in state.items():
        if name.startswith("roi_head."):
            _, head, rest = name.split(".", 2)
            for stage, stds in enumerate(STDS):
                own = tensor
                if rest.startswith("fc_reg."):
                    scale = tensor.new_tensor(STDS[0]) / tensor.new_tensor(stds)
                    own = tensor.unflatten(0, (80, 4)).mean(0) * scale.view(-1, *[1] * (tensor.dim() - 1))
                made[f"roi_head.{head}.{stage}.{rest}"] = own
    return made


def write(folder: Path, label: int = 22) -> dict[str, tuple[Path, Path]]:
    """(config, checkpoint) by the variant's name; ``label``: the class that the one with one class keeps, zebras, of
    which the demo scenes have most."""
    content = read_checkpoint(model_spec("emoji"))
    state, classes = content["state_dict"], content["meta"]["CLASSES"]
    variants: dict[str, tuple[str, Callable[[State], State], tuple[str, ...]]] = {
        "caffe": (CAFFE, caffe, classes),
        "one_class": (ONE_CLASS, lambda state: one_class(state, label), (classes[label],)),
        "cascade": (CASCADE, cascade, classes),
    }
    made = {}
    for name, (text, convert, names) in variants.items():
        config, checkpoint = folder / f"{name}.py", folder / f"{name}.pth"
        config.write_text(BASE + text)
        meta = {"config": mmcv.Config.fromfile(str(config)).pretty_text, "CLASSES": tuple(names)}
        torch.save({"meta": meta, "state_dict": convert(state)}, checkpoint)
        made[name] = (config, checkpoint)
    return made


if __name__ == "__main__":
    for config, checkpoint in write(Path(sys.argv[1])).values():
        print(config, checkpoint)
