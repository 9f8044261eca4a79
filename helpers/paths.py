"""Where things are. Every path is derived from this file's place, so the current directory never matters."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from helpers.errors import CourseError

REPO_ROOT = Path(__file__).resolve().parent.parent
MODELS = REPO_ROOT / "models"
DATA = REPO_ROOT / "data"
EVIDENCE = REPO_ROOT / "evidence"
NOTEBOOKS = REPO_ROOT / "notebooks"
PLUGINS = REPO_ROOT / "plugins"


class FolderError(CourseError):
    """A folder cannot be made, or nothing can be written in it."""


def build_root() -> Path:
    """The folder for everything that is made: ``$COURSE_BUILD`` if set, else ``build/`` in the repository.

    A relative ``$COURSE_BUILD`` counts from the repository. (``scripts/run_course.py`` hands it on as the path that it
    is for its caller.)
    """
    return REPO_ROOT / (os.environ.get("COURSE_BUILD") or "build")


def make_folder(folder: Path) -> Path:
    """``folder``, made with its parents if it is not there.

    Raises:
        FolderError: it cannot be made: a file is in the way, the disk is full or may not be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FolderError(f"the folder {folder} cannot be made ({error.strerror})", _OTHER_FOLDER) from error
    return folder


_OTHER_FOLDER = "name a folder that can be written to (COURSE_BUILD says where everything goes)"


def unwritable(folder: Path, error: OSError) -> FolderError:
    """The error to raise where the system refused to make a file in ``folder``."""
    return FolderError(f"nothing can be written in {folder} ({error.strerror})", _OTHER_FOLDER)


def build_dir(model_name: str) -> Path:
    """``build/<model>/``, made if it is not there. Raises :class:`FolderError`."""
    return make_folder(build_root() / model_name)


def shown(text: str) -> str:
    """A path, or a text with paths in it, for a page that others read too: the repository's are relative to it, the
    environment and the folder for temporary files are ``...``, the home folder is ``~``.
    """
    temporary = tempfile.gettempdir()
    for folder, short in ((REPO_ROOT, ""), (sys.prefix, ".../"), (temporary, ".../"), (Path.home(), "~/")):
        text = text.replace(f"{folder}/", short)
    return text


def own_pictures() -> list[Path]:
    """The picture that ``$COURSE_IMAGE`` names (``run_course.sh --image FILE``), in a list that is empty if it names
    none.
    """
    named = os.environ.get("COURSE_IMAGE")
    return [Path(named)] if named else []
