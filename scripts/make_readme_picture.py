"""Draw the README's picture: two demo scenes with what the embedded model finds in them."""

from __future__ import annotations

import cv2
import numpy as np

from helpers import paths
from helpers.artifacts import write_bytes
from helpers.detector import drawing
from helpers.detector.inference import detect
from helpers.detector.models import load_detector
from helpers.detector.preprocess import read_picture


def main() -> None:
    detector = load_detector("emoji")
    panels = []
    for name in ("crowd", "huge"):
        picture = read_picture(paths.DATA / "demo" / f"{name}.jpg")
        shown = drawing.overlay(
            drawing.to_rgb(picture), detect(detector, picture), detector.CLASSES, score_threshold=0.5
        )
        panels.append(cv2.resize(shown, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA))
    encoded = cv2.imencode(".jpg", np.hstack(panels)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
    write_bytes(paths.REPO_ROOT / "docs" / "detections.jpg", encoded.tobytes())


if __name__ == "__main__":
    main()
