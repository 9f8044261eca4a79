"""A config's test pipeline read: what mmdet does to a picture, without mmdet."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.compat import ensure_torchvision

ensure_torchvision()

from mmdet.datasets.pipelines import Compose  # noqa: E402

from helpers.detector.pipeline import PipelineError, mmdet_pipeline, read_pipeline, read_steps  # noqa: E402
from helpers.detector.preprocess import COURSE, Preprocessing, denormalise, prepare  # noqa: E402

CAFFE = {"mean": [103.53, 116.28, 123.675], "std": [1.0, 1.0, 1.0], "to_rgb": False}
INCEPTION = {"mean": [127.5, 127.5, 127.5], "std": [128.0, 127.5, 129.0], "to_rgb": True}


def steps(norm=CAFFE, scale=(133, 80), resize=None, pad=None, **around):
    transforms = [
        {"type": "Resize", "keep_ratio": True, **(resize or {})},
        {"type": "RandomFlip"},
        {"type": "Normalize", **norm},
        {"type": "Pad", **(pad or {"size_divisor": 32})},
        {"type": "ImageToTensor", "keys": ["img"]},
        {"type": "Collect", "keys": ["img"]},
    ]
    augment = {"type": "MultiScaleFlipAug", "img_scale": scale, "flip": False, "transforms": transforms, **around}
    return [{"type": "LoadImageFromFile"}, augment]


@pytest.mark.parametrize(
    ("given_steps", "shape", "kept"),
    [
        (steps(), (96, 160), True),
        (steps(scale=(80, 133)), (96, 160), True),
        (steps(scale=[(133, 80)], pad={"size_divisor": 1}), (80, 133), True),
        (steps(INCEPTION, resize={"keep_ratio": False}), (96, 160), False),
        (steps(pad={"size": (100, 150), "pad_val": {"img": 0}}), (100, 150), True),
        (steps(pad={"pad_to_square": True}), (133, 133), True),
    ],
)
@settings(max_examples=8)
@given(st.integers(10, 200), st.integers(0, 150))
def test_pictures_are_prepared_as_mmdet_does_bit_for_bit(given_steps, shape, kept, height, more):
    """Landscape ones, of which the input is made: mmdet's own steps, its own reader, our arithmetic."""
    preprocessing = read_steps(given_steps)
    assert (preprocessing.input_shape, preprocessing.keep_ratio) == (shape, kept)
    picture = np.random.default_rng(height).integers(0, 256, (height, height + more, 3), np.uint8)
    run = copy.deepcopy(given_steps[1])
    run["img_scale"] = run["img_scale"][0] if isinstance(run["img_scale"], list) else run["img_scale"]
    loaded = {"img": picture, "filename": None, "ori_filename": None, "ori_shape": picture.shape, "img_fields": ["img"]}
    loaded |= {"img_shape": picture.shape, "flip": False, "flip_direction": None}
    theirs = Compose([run])(loaded)
    ours = prepare(picture, preprocessing=preprocessing)
    meta, tensor = theirs["img_metas"][0].data, theirs["img"][0].numpy()
    assert ours.meta()["img_shape"] == meta["img_shape"]
    np.testing.assert_array_equal(ours.meta()["scale_factor"], meta["scale_factor"])
    h, w = tensor.shape[1:]
    np.testing.assert_array_equal(ours.tensor[0, :, :h, :w], tensor)
    assert (ours.tensor[0, :, h:] == 0).all()


@pytest.mark.parametrize("given_steps", [steps(), steps(INCEPTION, resize={"keep_ratio": False})])
def test_it_goes_to_json_and_to_a_pipeline_and_back(given_steps):
    preprocessing = read_steps(given_steps)
    assert Preprocessing.from_json(preprocessing.to_json()) == preprocessing
    assert read_steps(mmdet_pipeline(preprocessing)) == preprocessing
    assert read_steps(mmdet_pipeline()) == COURSE


def test_a_portrait_picture_is_scaled_to_fit():
    prepared = prepare(np.zeros((300, 100, 3), np.uint8), preprocessing=read_steps(steps()))
    assert prepared.resized_shape == (96, 32)
    assert prepare(np.zeros((80, 80, 3), np.uint8), preprocessing=read_steps(steps())).resized_shape == (80, 80)


def test_the_course_own_rule_is_that_of_its_configs():
    """The embedded model's config and r50's, at the course's input: the same shapes for pictures of any shape."""
    for scale in ((1216, 800), (1333, 800)):
        own = Preprocessing(scale=scale)
        for shape in np.random.default_rng(0).integers(1, 3000, (2000, 2)).tolist():
            assert own.resized(tuple(shape)) == COURSE.resized(tuple(shape)), (scale, shape)


def test_bgr_comes_back_as_bgr():
    picture = np.random.default_rng(1).integers(0, 256, (80, 133, 3), np.uint8)
    preprocessing = read_steps(steps())
    seen = denormalise(prepare(picture, preprocessing=preprocessing), preprocessing)
    np.testing.assert_array_equal(seen[:80, :133], picture)


@pytest.mark.parametrize(
    ("given_steps", "words"),
    [
        (steps(flip=True), "flips pictures"),
        (steps(pad={"size_divisor": 32, "pad_val": {"img": (114, 114, 114)}}), "pads with"),
        (steps(scale=[(133, 80), (100, 60)]), "at 2 sizes"),
        (steps(resize={"interpolation": "area"}), "bilinearly"),
        (steps(resize={"backend": "pillow"}), "another library"),
        ([*steps(), {"type": "PhotoMetricDistortion"}], "step PhotoMetricDistortion"),
        ([{"type": "LoadImageFromFile", "to_float32": True}, *steps()[1:]], "to_float32=True"),
        ([steps()[0], {**steps()[1], "transforms": steps()[1]["transforms"][:2]}], "no step Normalize"),
        ([steps()[0], {**steps()[1], "transforms": steps()[1]["transforms"][::-1]}], "in the order"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(given_steps, words):
    with pytest.raises(PipelineError, match=words):
        read_steps(given_steps)


@pytest.mark.parametrize(
    "config",
    [
        {"data": {"test": {"pipeline": steps()}}},
        {"test_pipeline": steps()},
        {"data": {"test": [{"pipeline": steps()}]}},
        {"data": {"test": {"type": "RepeatDataset", "dataset": {"pipeline": steps()}}}},
    ],
)
def test_where_configs_have_it(config):
    assert read_pipeline(config) == read_steps(steps())


def test_a_config_without_one_is_one_sentence():
    with pytest.raises(PipelineError, match="no test pipeline"):
        read_pipeline({"data": {"train": {}}})
