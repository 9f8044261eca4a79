from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
import torch

from helpers.detector.models import build_random_detector, load_config
from helpers.scenes import torchvision_ops
from helpers.scenes.emoji_art import Sprite
from helpers.scenes.render import SceneStyle, render_scene
from helpers.scenes.training import (
    OwnerMasks,
    TrainingPlan,
    half_state,
    load_progress,
    save_progress,
    scene_batches,
    train,
)

SHAPE = (192, 256)


def scene(seed):
    rgba = np.zeros((64, 64, 4), np.uint8)
    rgba[8:56, 8:56] = (200, 30, 30, 255)
    sprites = [Sprite("cat", "test", rgba), Sprite("dog", "test", rgba[:, :40])]
    names = [f"class {index}" for index in range(80)]
    names[15:17] = ["cat", "dog"]
    return render_scene(seed, sprites, names, SceneStyle(instances=(5, 5), size=(40, 90), shape=SHAPE))


def sample(seed):
    made = scene(seed)
    return {
        "picture": torch.from_numpy(np.ascontiguousarray(made.picture[..., ::-1].transpose(2, 0, 1))),
        "owner": torch.from_numpy(made.owner),
        "boxes": torch.from_numpy(made.boxes()),
        "labels": torch.from_numpy(made.labels),
    }


def test_owner_masks_crop_as_mmdets_bitmaps_do():
    from mmdet.core.mask.structures import BitmapMasks

    made = scene(1)
    masks = made.masks()
    random = np.random.default_rng(0)
    corners = np.sort(random.uniform(0, 190, (20, 2, 2)), axis=1).reshape(20, 4).astype(np.float32)
    boxes = np.concatenate([made.boxes(), corners])
    indices = random.integers(0, len(masks), len(boxes))
    theirs = BitmapMasks(masks.astype(np.uint8), *SHAPE).crop_and_resize(boxes, (28, 28), inds=indices).to_ndarray()
    ours = OwnerMasks(torch.from_numpy(made.owner), len(masks)).crop_and_resize(boxes, (28, 28), indices).to_ndarray()
    np.testing.assert_array_equal(ours, theirs.astype(bool))


def test_the_learning_rate_warms_up_and_falls_to_zero():
    plan = TrainingPlan(steps=100, peak=1.0, warmup=10)
    rates = [plan.learning_rate(step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0.0, abs=1e-12)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_training_goes_on_where_it_stopped(tmp_path):
    def fresh():
        detector = build_random_detector("emoji", seed=3)
        return detector, torch.optim.AdamW(detector.parameters(), lr=1e-4)

    plan = TrainingPlan(steps=4, batch=1, peak=1e-4, warmup=1)
    batches = [[sample(seed)] for seed in range(4)]

    def run(detector, optimiser, first, last):
        # mmdet draws its samples of anchors from torch's generator: a resumed step must draw what it would have drawn.
        def stop(step, _):
            torch.manual_seed(step)
            return step < last

        torch.manual_seed(first)
        return train(detector, optimiser, iter(batches[first:]), plan, first, stop)

    straight, optimiser = fresh()
    before = {name: value.clone() for name, value in straight.state_dict().items()}
    assert run(straight, optimiser, 0, 4) == 4
    assert any(not torch.equal(before[name], value) for name, value in straight.state_dict().items())

    first, optimiser = fresh()
    assert run(first, optimiser, 0, 2) == 2
    save_progress(tmp_path / "progress.pth", first, optimiser, 2)
    second, optimiser = fresh()
    assert load_progress(tmp_path / "none.pth", second, optimiser) == 0
    assert load_progress(tmp_path / "progress.pth", second, optimiser) == 2
    assert run(second, optimiser, 2, 4) == 4
    for (name, a), b in zip(straight.state_dict().items(), second.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5, msg=name)


def test_every_seed_is_rendered_once_and_in_order(monkeypatch):
    seen = []

    def fake(seed, *_):
        seen.append(seed)
        return scene(seed)

    monkeypatch.setattr("helpers.scenes.training.render_scene", fake)
    first = list(scene_batches([], [], first=0, count=4, batch=2, workers=0))
    rest = list(scene_batches([], [], first=4, count=5, batch=2, workers=0))
    assert [len(batch) for batch in first + rest] == [2, 2, 2, 2]
    assert seen[:8] == list(range(1_000_000, 1_000_008))


def test_shipped_weights_are_half_and_copies():
    detector = build_random_detector("emoji")
    state = half_state(detector)
    assert {value.dtype for value in state.values()} == {torch.float16, torch.int64}
    key = "backbone.conv1.weight"
    state[key].zero_()
    assert detector.state_dict()[key].abs().max() > 0


def test_the_stand_in_serves_nms_and_refuses_the_rest(monkeypatch):
    assert torchvision_ops.mmcv_ops_are_compiled()
    monkeypatch.delitem(sys.modules, "mmcv._ext", raising=False)
    torchvision_ops.serve_by_torchvision()
    stand_in = sys.modules.pop("mmcv._ext")
    with pytest.raises(NotImplementedError, match="deform_conv_forward"):
        stand_in.deform_conv_forward(1)
    with pytest.raises(NotImplementedError, match="offset 0"):
        stand_in.nms(torch.zeros(0, 4), torch.zeros(0), 0.5, 1)


def test_the_switch_for_torchvisions_roi_align_is_set_in_both_heads():
    config = load_config("emoji").model
    torchvision_ops.use_torchvision_roi_align(config)
    assert config.roi_head.bbox_roi_extractor.roi_layer.use_torchvision
    assert config.roi_head.mask_roi_extractor.roi_layer.use_torchvision
