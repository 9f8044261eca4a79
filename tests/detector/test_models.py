from __future__ import annotations

import pickle
import shutil
import subprocess
import traceback

import numpy as np
import pytest
import torch

from helpers import paths
from helpers.detector import models
from helpers.detector.inference import detect, detect_prepared
from helpers.detector.models import CheckpointError, UnknownModelError, build_random_detector, load_detector, model_spec
from helpers.detector.preprocess import read_picture

WEIGHTS = paths.MODELS / "emoji" / "mask_rcnn_emoji.pth"


def test_the_embedded_model_finds_what_is_there(emoji_detector):
    picture = read_picture(paths.DATA / "demo" / "huge.jpg")
    found = detect(emoji_detector, picture).above(0.8)
    names = {emoji_detector.CLASSES[label] for label in found.labels}
    assert {"donut", "zebra", "cup", "train"} <= names
    assert found.masks.shape[1:] == picture.shape[:2]


def test_mmdet_itself_accepts_the_shipped_checkpoint(emoji_detector):
    """`init_detector` and `inference_detector`, as a learner would call them, give the course's own result."""
    from mmdet.apis import inference_detector, init_detector

    from helpers.detector.detections import Detections

    file = paths.DATA / "demo" / "tiny.jpg"
    detector = init_detector(models.load_config("emoji"), str(WEIGHTS), device="cpu")
    picture = read_picture(file)
    theirs = Detections.from_mmdet(inference_detector(detector, str(file)), picture.shape[:2])
    ours = detect(emoji_detector, picture)
    # Convolutions choose their algorithm by memory layout, so two loads may differ in the last digits.
    np.testing.assert_array_equal(theirs.labels, ours.labels)
    np.testing.assert_allclose(theirs.boxes, ours.boxes, atol=1e-3)
    assert np.mean(theirs.masks != ours.masks) < 1e-6


def test_the_shipped_weights_are_small_and_half():
    state = torch.load(WEIGHTS, weights_only=True)["state_dict"]
    assert WEIGHTS.stat().st_size <= 16 * 2**20
    assert {value.dtype for value in state.values() if value.is_floating_point()} == {torch.float16}


def test_a_changed_checkpoint_is_refused(monkeypatch, tmp_path):
    folder = tmp_path / "emoji"
    shutil.copytree(paths.MODELS / "emoji", folder)
    monkeypatch.setattr(paths, "MODELS", tmp_path)
    load_detector("emoji")
    content = bytearray((folder / WEIGHTS.name).read_bytes())
    content[5000] ^= 1
    (folder / WEIGHTS.name).write_bytes(content)
    with pytest.raises(CheckpointError, match="SHA-256 differs"):
        load_detector("emoji")
    (folder / "SHA256SUMS").unlink()
    with pytest.raises(CheckpointError, match="SHA-256 differs"):
        load_detector("emoji")
    (folder / WEIGHTS.name).unlink()
    with pytest.raises(CheckpointError, match="there is no checkpoint at"):
        load_detector("emoji")


def test_a_truncated_checkpoint_is_one_sentence(tmp_path):
    file = tmp_path / "half.pth"
    file.write_bytes(WEIGHTS.read_bytes()[:1_000_000])
    with pytest.raises(CheckpointError, match="not a whole PyTorch checkpoint"):
        load_detector("emoji", file)


class Boom:
    def __reduce__(self):
        return (open, ("/dev/null",))


def test_a_checkpoint_with_code_in_it_is_not_opened(tmp_path):
    file = tmp_path / "evil.pth"
    torch.save({"state_dict": {}, "meta": Boom()}, file)
    with pytest.raises(CheckpointError, match=r"more than tensors \((io|_io)\.open\)") as caught:
        load_detector("emoji", file)
    # torch's own words, which advise to switch the check off, are not passed on.
    assert "weights_only" not in "".join(traceback.format_exception(caught.value))


def test_numpy_arrays_in_a_checkpoint_need_trust(tmp_path):
    """Scalars do not (tests of own models); an array's pickle calls a function that makes objects of any type."""
    file = tmp_path / "old.pth"
    state = torch.load(WEIGHTS, weights_only=True)["state_dict"]
    torch.save({"state_dict": state, "meta": {"epoch": np.array(["3"], object)}}, file)
    with pytest.raises(CheckpointError, match="trust=True"):
        load_detector("emoji", file)
    load_detector("emoji", file, trust=True)


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {"a": torch.zeros(1)}}])
def test_a_file_that_is_no_checkpoint_of_this_model(tmp_path, content):
    file = tmp_path / "other.pth"
    torch.save(content, file)
    with pytest.raises(CheckpointError, match="name a checkpoint of this model"):
        load_detector("emoji", file)


def test_a_plain_pickle_is_refused(tmp_path):
    file = tmp_path / "x.pkl"
    file.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(CheckpointError):
        load_detector("emoji", file)


def test_names(monkeypatch, tmp_path):
    monkeypatch.delenv("COURSE_MODEL", raising=False)
    monkeypatch.delenv("COURSE_CHECKPOINT", raising=False)
    assert models.current_model_name() == "emoji"
    monkeypatch.setenv("COURSE_MODEL", "r101")
    with pytest.raises(UnknownModelError, match="'r101'.*emoji, r50"):
        models.current_model_name()


def test_the_named_checkpoint_is_of_the_current_model_only(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_MODEL", "r50")
    monkeypatch.setenv("COURSE_CHECKPOINT", str(tmp_path / "none.pth"))
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*none\.pth"):
        model_spec("r50")
    assert model_spec("emoji").checkpoint == paths.MODELS / "emoji" / "mask_rcnn_emoji.pth"


def test_r50_without_a_checkpoint_says_how_to_get_one(monkeypatch, tmp_path):
    monkeypatch.delenv("COURSE_CHECKPOINT", raising=False)
    monkeypatch.setenv("COURSE_BUILD", str(tmp_path))
    assert model_spec("r50").config.is_file()
    with pytest.raises(CheckpointError, match=r"no checkpoint for r50: .*COURSE_CHECKPOINT"):
        load_detector("r50")


def test_a_failed_download_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_BUILD", str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda *_, **__: "mim")
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1))
    with pytest.raises(CheckpointError, match="could not be downloaded"):
        models.download_checkpoint()
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(CheckpointError, match="mim is not installed"):
        models.download_checkpoint()


def test_a_published_checkpoint_is_checked_by_the_digits_in_its_name(monkeypatch, tmp_path):
    monkeypatch.delenv("COURSE_CHECKPOINT", raising=False)
    monkeypatch.setenv("COURSE_BUILD", str(tmp_path))
    file = tmp_path / "downloads" / "r50" / "mask_rcnn_r50_fpn_2x_coco_bbox_mAP-0.392-00000000.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"not it")
    with pytest.raises(CheckpointError, match="SHA-256 differs"):
        load_detector("r50")


def test_random_detectors_are_functions_of_the_seed_and_leave_the_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, second, other = (build_random_detector("emoji", seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(1), expected)
    key = "roi_head.bbox_head.fc_cls.weight"
    assert torch.equal(first.state_dict()[key], second.state_dict()[key])
    assert not torch.equal(first.state_dict()[key], other.state_dict()[key])


def test_a_bad_named_checkpoint_spoils_neither_an_explicit_one_nor_the_report(monkeypatch, tmp_path):
    from helpers import environment

    monkeypatch.delenv("COURSE_MODEL", raising=False)
    monkeypatch.setenv("COURSE_CHECKPOINT", str(tmp_path / "none.pth"))
    load_detector("emoji", WEIGHTS)
    weights = {finding.name: finding for finding in environment._weights()}
    assert weights["weights: emoji"].status == "missing"
    assert "none.pth" in weights["weights: emoji"].purpose


@pytest.mark.parametrize("value", ["1", "true", "Y"])
def test_torch_is_not_told_to_run_what_a_checkpoint_holds(monkeypatch, value):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", value)
    with pytest.raises(CheckpointError, match="TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is set"):
        load_detector("emoji")


@pytest.mark.parametrize(
    ("reason", "kind", "words"),
    [
        (
            "carafe_forward_impl: implementation for device cpu not found.\nmore",
            models.InferenceError,
            "device cpu not",
        ),
        ("DefaultCPUAllocator: can't allocate memory: 8 bytes", MemoryError, "allocate"),
        ("", models.InferenceError, r"\(RuntimeError\)"),
    ],
)
def test_a_module_that_stops_is_an_error_of_the_course(small_detector, small_input, monkeypatch, reason, kind, words):
    def forward(*_):
        raise RuntimeError(reason)

    detector = small_detector()
    monkeypatch.setattr(detector.backbone, "forward", forward)
    with pytest.raises(kind, match=words) as caught:
        detect_prepared(detector, small_input(), rescale=False)
    assert "more" not in str(caught.value)
    with pytest.raises(kind, match=words):
        models.spread_scores(detector, [small_input()])
