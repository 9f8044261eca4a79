"""Extract cells of one chapter into a notebook that runs by itself."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import nbformat

from helpers import extraction, paths
from helpers.artifacts import write_text
from helpers.errors import CourseError


class OutputExistsError(CourseError):
    """The notebook to write is there already."""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("chapter")
@click.option("--tag", "tags", multiple=True, help="Cells with this tag (exercise, gpu, ...); repeatable.")
@click.option("--heading", "headings", multiple=True, help="Cells under this heading; repeatable.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The notebook to write (default: in build/extracted).",
)
@click.option("--force", is_flag=True, help="Overwrite it.")
def main(chapter: str, tags: tuple[str, ...], headings: tuple[str, ...], output: Path | None, force: bool) -> None:
    """Extract the cells of CHAPTER (5, 05 or its file's name) that have one of the tags and stand under one of the
    headings. The text before each comes along, and every cell that the chosen ones need to run."""
    try:
        source = extraction.chapter_file(chapter)
        notebook = extraction.extract(nbformat.read(source, as_version=4), tags, headings)
        output = output or paths.build_root() / "extracted" / source.name
        if output.exists() and not force:
            raise OutputExistsError(f"{output} is there already", "name another --output, or pass --force")
        write_text(output, nbformat.writes(notebook))
    except CourseError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    click.echo(output)
    if paths.REPO_ROOT not in output.resolve().parents:
        click.echo(f"It imports the course's helpers: run it in {paths.REPO_ROOT}, or a folder of it.", err=True)


if __name__ == "__main__":
    main()
