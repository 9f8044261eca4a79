"""Write the student version of the notebooks: the same, without the cells tagged `solution`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import nbformat

from helpers import paths
from helpers.artifacts import write_text
from helpers.errors import CourseError
from helpers.site import without_solutions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--notebooks", type=Path, default=paths.NOTEBOOKS, help="where they are (default: notebooks/)")
    default = paths.build_root() / "student"
    parser.add_argument("--output", type=Path, default=default, help="where they go (default: build/student)")
    options = parser.parse_args()
    for path in sorted(options.notebooks.glob("[0-9][0-9]_*.ipynb")):
        notebook = without_solutions(nbformat.read(path, as_version=4))
        write_text(options.output / path.name, nbformat.writes(notebook))
        print(options.output / path.name)


if __name__ == "__main__":
    try:
        main()
    except CourseError as error:
        sys.exit(str(error))
