from __future__ import annotations

import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers import paths
from helpers.compat import ensure_torchvision

ensure_torchvision()

from mmdet.datasets.pipelines import Compose  # noqa: E402

from helpers.detector.pipeline import mmdet_pipeline  # noqa: E402
from helpers.detector.preprocess import (  # noqa: E402
    INPUT_HEIGHT,
    INPUT_WIDTH,
    ImageError,
    boxes_to_picture,
    denormalise,
    fit_scale,
    prepare,
    read_picture,
)

sides = st.integers(1, 3000)


@given(sides, sides)
def test_a_scaled_picture_fits_and_touches_a_border(height, width):
    new_height, new_width = fit_scale((height, width), (INPUT_HEIGHT, INPUT_WIDTH))
    assert 1 <= new_height <= INPUT_HEIGHT
    assert 1 <= new_width <= INPUT_WIDTH
    assert new_height == INPUT_HEIGHT or new_width == INPUT_WIDTH


@pytest.mark.parametrize("shape", [(800, 1216), (427, 640), (1000, 300), (37, 37)])
def test_prepare_is_what_the_mmdet_pipeline_does_bit_for_bit(tmp_path, shape):
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    file = tmp_path / "p.png"
    cv2.imwrite(str(file), picture)
    theirs = Compose(mmdet_pipeline())({"img_info": {"filename": str(file)}, "img_prefix": None})
    ours = prepare(read_picture(file))
    meta = theirs["img_metas"][0].data
    np.testing.assert_array_equal(ours.tensor[0], theirs["img"][0].numpy())
    np.testing.assert_array_equal(ours.meta()["scale_factor"], meta["scale_factor"])
    assert (ours.meta()["img_shape"], ours.meta()["ori_shape"]) == (meta["img_shape"], meta["ori_shape"])
    assert ours.meta()["pad_shape"] == meta["pad_shape"]


def test_a_picture_of_the_input_size_comes_back_exactly():
    picture = read_picture(paths.DATA / "demo" / "tiny.jpg")
    prepared = prepare(picture)
    assert prepared.scale == (1.0, 1.0)
    np.testing.assert_array_equal(denormalise(prepared), picture)


def test_padding_is_zero_and_outside_the_resized_shape():
    prepared = prepare(np.full((100, 100, 3), 255, np.uint8))
    assert prepared.resized_shape == (800, 800)
    assert (prepared.tensor[..., 800:] == 0).all()
    assert (prepared.tensor[..., :800] > 2).all()


@settings(max_examples=25)
@given(st.integers(20, 900), st.integers(20, 900), st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_boxes_go_to_the_input_and_back(height, width, corners):
    prepared = prepare(np.zeros((height, width, 3), np.uint8))
    box = np.array([corners], np.float32) * np.array([width, height, width, height], np.float32)
    scale_x, scale_y = prepared.scale
    there = box * np.array([scale_x, scale_y, scale_x, scale_y], np.float32)
    np.testing.assert_allclose(boxes_to_picture(there, prepared), box, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "cannot read the picture"), (b"", "can be decoded"), (b"\x89PNG\r\n\x1a\nbroken", "can be decoded")],
)
def test_unreadable_pictures_are_one_sentence(tmp_path, content, words):
    file = tmp_path / "p.png"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ImageError, match=words):
        read_picture(file)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "p.png")
    with pytest.raises(ImageError, match=r"cannot read the picture .*p\.png \(not a regular file\)"):
        read_picture(tmp_path / "p.png")


def test_a_picture_of_more_pixels_than_opencv_takes_is_one_sentence(tmp_path):
    file = tmp_path / "p.png"
    cv2.imwrite(str(file), np.zeros((1, 1, 3), np.uint8))
    content = bytearray(file.read_bytes())
    content[16:24] = struct.pack(">II", 60000, 60000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    file.write_bytes(content)
    with pytest.raises(ImageError, match=r"OpenCV refuses the picture .*pixels.*: give a smaller") as caught:
        read_picture(file)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("bits", [12, 14])
def test_16_bits_are_scaled_to_8_and_fewer_bits_in_16_are_refused(tmp_path, suffix, bits):
    whole = np.random.default_rng(0).integers(0, 2**16, (5, 7, 3), np.uint16)
    faint = tmp_path / f"faint{suffix}"
    cv2.imwrite(str(tmp_path / f"whole{suffix}"), whole)
    np.testing.assert_allclose(read_picture(tmp_path / f"whole{suffix}"), whole / 257, atol=1)
    few = whole >> (16 - bits)
    cv2.imwrite(str(faint), few)
    with pytest.raises(ImageError, match=f"none above {few.max()}: with 12 or 14 bits it would read as too dark"):
        read_picture(faint)
    cv2.imwrite(str(faint), whole * 0)
    assert not read_picture(faint).any(), "black is black"


@pytest.mark.parametrize(
    ("mode", "suffix"), [("L", "png"), ("RGBA", "png"), ("P", "png"), ("P", "gif"), ("CMYK", "jpg"), ("RGB", "jpg")]
)
def test_pictures_from_people_are_read_as_they_look(tmp_path, mode, suffix):
    """Grey, with alpha, with a palette, in a printer's colours, and turned by its EXIF data as a telephone turns it."""
    seen = np.zeros((32, 16, 3), np.uint8)  # red above black
    seen[:16, :, 0] = 250
    asked = Image.fromarray(seen)
    asked = asked.quantize(4) if mode == "P" else asked.convert(mode)
    exif = Image.Exif()
    if mode == "RGB":
        exif[0x0112] = 6  # to be turned a quarter clockwise
        asked = asked.transpose(Image.Transpose.ROTATE_90)
    asked.save(file := tmp_path / f"picture.{suffix}", **({"exif": exif, "subsampling": 0} if suffix == "jpg" else {}))
    grey = np.asarray(asked)[..., None].repeat(3, axis=2) if mode == "L" else seen
    np.testing.assert_allclose(read_picture(file)[..., ::-1], grey, atol=20)


@pytest.mark.parametrize(
    "picture",
    [np.zeros((0, 5, 3), np.uint8), np.zeros((5, 0, 3), np.uint8), np.zeros((5, 5), np.uint8), np.zeros((5, 5, 3))],
)
def test_pictures_without_pixels_or_of_the_wrong_kind_are_refused(picture):
    with pytest.raises(ImageError):
        prepare(picture)
