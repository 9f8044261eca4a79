"""Models of one's own: a config and a checkpoint, as they are found."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch

from helpers import paths
from helpers.detector import models
from helpers.detector.checkpoints import disagreements, recorded_config
from helpers.detector.inference import detect
from helpers.detector.models import CheckpointError, ConfigError, UnknownModelError, load_detector, own_model
from helpers.detector.preprocess import prepare, read_picture


@pytest.fixture(scope="module")
def content(own_files):
    return torch.load(own_files[1], weights_only=True)


def saved(tmp_path, own_files, content):
    """A spec of the own model with another checkpoint."""
    file = tmp_path / "changed.pth"
    torch.save(content, file)
    return own_model(own_files[0], file)


def test_config_and_checkpoint_are_a_detector(own_files, content):
    detector = load_detector(own_model(*own_files))
    assert detector.CLASSES == ("apple", "pear", "plum")
    preprocessing = models.preprocessing_of(detector)
    assert preprocessing.input_shape == (96, 160)
    assert (preprocessing.mean, preprocessing.to_rgb) == ((103.53, 116.28, 123.675), False)
    state = detector.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in content["state_dict"].items())
    found = detect(detector, read_picture(paths.DATA / "demo" / "crowd.jpg"))
    assert (found.scores > 0.3).any()


FORMS = {
    "module.": lambda c: {**c, "state_dict": {f"module.{k}": v for k, v in c["state_dict"].items()}},
    "model at the top": lambda c: {"model": c["state_dict"], "epoch": 1},
    "weights alone": lambda c: c["state_dict"],
    "ema copy": lambda c: {
        **c,
        "state_dict": OrderedDict(
            {**{f"ema_{k.replace('.', '_')}": v + 1 for k, v in c["state_dict"].items()}, **c["state_dict"]}
        ),
    },
    "no counters": lambda c: {
        "state_dict": {k: v for k, v in c["state_dict"].items() if not k.endswith("num_batches_tracked")}
    },
    "numpy in the meta": lambda c: {
        **c,
        "meta": {**c["meta"], "map": np.float64(0.5), "n": [np.int64(3), np.bool_(1)]},
    },
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_checkpoints_as_they_are_found(tmp_path, own_files, content, form):
    state = load_detector(saved(tmp_path, own_files, form(content))).state_dict()
    key = "backbone.layer1.0.conv1.weight"
    assert torch.equal(state[key], content["state_dict"][key])


def test_half_precision_weights_become_single(tmp_path, own_files, content):
    half = {k: v.half() if v.is_floating_point() else v for k, v in content["state_dict"].items()}
    detector = load_detector(saved(tmp_path, own_files, {"state_dict": half}))
    assert {p.dtype for p in detector.parameters()} == {torch.float32}


def test_keys_that_do_not_fit_are_counted_and_named(tmp_path, own_files, content):
    state = dict(content["state_dict"])
    gone = [key for key in state if key.startswith("neck.")]
    for key in gone:
        state[f"other.{key}"] = state.pop(key)
    state["roi_head.bbox_head.fc_cls.bias"] = torch.zeros(5)
    with pytest.raises(CheckpointError) as error:
        load_detector(saved(tmp_path, own_files, {"state_dict": state}))
    words = str(error.value)
    assert f"{len(gone)} missing ({', '.join(gone[:5])}, ...)" in words
    assert f"{len(gone)} unexpected (other.neck." in words
    assert gone[5] not in words.replace(f"other.{gone[5]}", "")
    assert "1 of another size (roi_head.bbox_head.fc_cls.bias (5,) for (4,))" in words


def with_text(content, *changes):
    text = content["meta"]["config"]
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return {**content, "meta": {**content["meta"], "config": text}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("style='caffe'", "style='pytorch'"), "model.backbone.style is 'pytorch' in the checkpoint and 'caffe'"),
        (("style='caffe'", "with_cp=False"), "model.backbone.style is 'pytorch'"),  # mmdet's default
        (("to_rgb=False", "to_rgb=True"), "the test pipeline's to_rgb is True in the checkpoint"),
        (("std=[1.0, 1.0, 1.0]", "std=[58.395, 57.12, 57.375]"), "the test pipeline's std"),
        (("sampling_ratio=0", "sampling_ratio=2"), "roi_layer.sampling_ratio is 2"),
    ],
)
def test_a_checkpoint_of_another_config_is_refused(tmp_path, own_files, content, change, words):
    with pytest.raises(CheckpointError, match="was trained with another config") as error:
        load_detector(saved(tmp_path, own_files, with_text(content, change)))
    assert words in str(error.value)


def test_what_changes_nothing_is_no_disagreement(own_files, content):
    given = models.read_config(own_files[0])
    assert disagreements(recorded_config(content), given) == []
    changes = (
        ("type='BN'", "type='SyncBN'"),
        ("score_thr=0.05", "score_thr=0.3"),
        ("loss_weight=1.0", "loss_weight=2"),
    )
    assert disagreements(recorded_config(with_text(content, *changes)), given) == []


def test_the_recorded_config_is_not_run(tmp_path):
    target = tmp_path / "made"
    text = f"model = dict(type=open({str(target)!r}, 'w'))"
    assert recorded_config({"meta": {"config": text}}) is None
    assert not target.exists()


def test_variables_name_a_model(monkeypatch, tmp_path, own_files):
    for name in ("COURSE_MODEL", "COURSE_CHECKPOINT", "COURSE_CLASSES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COURSE_CONFIG", str(own_files[0]))
    assert models.current_model_name() == "fruit"
    assert models.model_spec().checkpoint is None
    with pytest.raises(CheckpointError, match="no checkpoint for fruit: name a file"):
        load_detector()
    monkeypatch.setenv("COURSE_CHECKPOINT", str(own_files[1]))
    names = tmp_path / "names.txt"
    names.write_text("a\nb\n\nc\n")
    monkeypatch.setenv("COURSE_CLASSES", str(names))
    assert load_detector().CLASSES == load_detector("fruit").CLASSES == ("a", "b", "c")
    assert models.model_spec("emoji").checkpoint == paths.MODELS / "emoji" / "mask_rcnn_emoji.pth"
    names.write_text("a\nb\n")
    with pytest.raises(ConfigError, match="names 2 classes, and the model has 3"):
        load_detector()
    monkeypatch.setenv("COURSE_MODEL", "r50")
    with pytest.raises(UnknownModelError, match="name two models"):
        models.model_spec()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model = dict(", "cannot be read"),
        (
            "custom_imports = dict(imports=['no_such_module_here'])\nmodel = dict(type='MaskRCNN')",
            "no_such_module_here",
        ),
        ("import no_such_module_here", "imports what cannot be imported"),
        ("a = 1", "describes no model"),
        ("model = dict(type='MaskRCNN', backbone=dict(type='MyNet'))", "has no test pipeline"),
    ],
)
def test_configs_that_cannot_be_used_are_one_sentence(tmp_path, text, words):
    file = tmp_path / "bad.py"
    file.write_text(text)
    with pytest.raises((ConfigError, models.CourseError), match=words):
        models.load_config(own_model(file, None))


def test_a_module_that_is_not_registered_is_one_sentence(tmp_path, own_files):
    file = tmp_path / "mynet.py"
    file.write_text(f"_base_ = {str(own_files[0])!r}\nmodel = dict(backbone=dict(_delete_=True, type='MyNet'))")
    with pytest.raises(ConfigError, match=r"model of mynet.py cannot be built .*MyNet.*custom_imports"):
        models.build_random_detector(own_model(file, None))


def test_missing_files_are_named(tmp_path, own_files):
    with pytest.raises(ConfigError, match="no config at"):
        own_model(tmp_path / "none.py", own_files[1])
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        own_model(own_files[0], tmp_path / "none.pth")
    with pytest.raises(ConfigError, match="no file of classes at"):
        own_model(*own_files, tmp_path / "none.txt")


def test_another_input_is_taken(own_files):
    detector = load_detector(own_model(*own_files, input_shape=(64, 64)))
    preprocessing = models.preprocessing_of(detector)
    assert preprocessing.input_shape == (64, 64)
    assert prepare(np.zeros((30, 90, 3), np.uint8), preprocessing=preprocessing).resized_shape == (21, 64)


def test_synchronised_norms_of_mmcv_are_built_without_a_process_group(tmp_path, own_files):
    """As the plain ones, under the same names: the checkpoint of the one fits the other."""
    norm = "dict(type='MMSyncBN', requires_grad=True, stats_mode='N')"
    heads = f"roi_head=dict(mask_head=dict(norm_cfg={norm}), bbox_head=dict(norm_cfg={norm}))"
    config = tmp_path / "synced.py"
    config.write_text(f"_base_ = {str(own_files[0])!r}\nmodel = dict({heads})\n")
    detector = models.build_architecture(own_model(config, None))
    norms = [module for module in detector.roi_head.modules() if "BatchNorm" in type(module).__name__]
    assert {type(norm) for norm in norms} == {torch.nn.BatchNorm2d}
    assert "roi_head.mask_head.convs.0.bn.running_var" in detector.state_dict()
