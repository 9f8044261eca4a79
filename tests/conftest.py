"""What several tests share."""

from __future__ import annotations

import warnings

import pytest

warnings.filterwarnings("ignore", message="On January 1, 2023, MMCV")

from helpers.detector.models import load_detector  # noqa: E402


@pytest.fixture(scope="session")
def emoji_detector():
    """The embedded model, loaded once. Tests must not change it."""
    return load_detector("emoji")
