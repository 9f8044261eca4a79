"""``prove`` on trained models of other kinds, at the size that the embedded one was trained for."""

from __future__ import annotations

import json

import pytest
import variants
from click.testing import CliRunner

from helpers import paths
from helpers.cli import main
from helpers.detector.inference import detect
from helpers.detector.models import load_detector, own_model
from helpers.detector.preprocess import read_picture

pytestmark = pytest.mark.slow
PICTURES = [paths.DATA / "demo" / f"{name}.jpg" for name in ("crowd", "twins")]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return variants.write(tmp_path_factory.mktemp("variants"))


@pytest.mark.parametrize(
    ("name", "kind"), [("caffe", "MaskRCNN"), ("one_class", "MaskRCNN"), ("cascade", "CascadeRCNN")]
)
def test_a_variant_is_proven(written, tmp_path, name, kind):
    config, checkpoint = written[name]
    images = [word for picture in PICTURES for word in ("--images", picture)]
    files = ["--config", config, "--checkpoint", checkpoint, "--output", tmp_path]
    result = CliRunner().invoke(main, ["prove", *map(str, [*files, *images])])
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "parity.json").read_text())
    assert record["agrees"] is True
    assert all(row["matched"] > 0 for row in record["rows"])
    assert f"{kind}, input (800, 1216)" in result.output


def test_a_variant_finds_what_the_embedded_model_finds(written, emoji_detector):
    """Those of which it is sure, each by its class and place, so that a variant is no other function by mistake. (The
    cascade has one regressor for all classes, the mean of what was trained for each.)"""
    zebra = emoji_detector.CLASSES.index("zebra")
    shares = {"caffe": 1.0, "one_class": 1.0, "cascade": 0.8}
    for name, files in written.items():
        detector, found, wanted = load_detector(own_model(*files)), 0, 0
        for picture in map(read_picture, PICTURES):
            expected, own = detect(emoji_detector, picture).above(0.7), detect(detector, picture).above(0.3)
            for box, label in zip(expected.boxes, expected.labels, strict=True):
                if name == "one_class" and label != zebra:
                    continue
                same = own.boxes[own.labels == (0 if name == "one_class" else label)]
                wanted += 1
                found += bool(len(same)) and abs(same - box).max(axis=1).min() < 12
        assert wanted > 3
        assert found >= shares[name] * wanted, (name, found, wanted)
