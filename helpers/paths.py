"""Where things are. Every path is derived from this file's place, so the current directory never matters."""

from __future__ import annotations

import os
from pathlib import Path

REPO_ROOT = Path(__file__).resolve().parent.parent
MODELS = REPO_ROOT / "models"
DATA = REPO_ROOT / "data"
EVIDENCE = REPO_ROOT / "evidence"
NOTEBOOKS = REPO_ROOT / "notebooks"
PLUGINS = REPO_ROOT / "plugins"


def build_root() -> Path:
    """The folder for everything that is made: ``$COURSE_BUILD`` if set, else ``build/`` in the repository."""
    return Path(os.environ.get("COURSE_BUILD") or REPO_ROOT / "build")


def build_dir(model_name: str) -> Path:
    """``build/<model>/``, made if it is not there."""
    folder = build_root() / model_name
    folder.mkdir(parents=True, exist_ok=True)
    return folder
