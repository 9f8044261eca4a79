"""Executed notebooks as a site that needs no network, made by Sphinx with MyST-NB as ``docs/conf.py`` says: a page and
slides of each, and an index of what they were made from.
"""

from __future__ import annotations

import base64
import copy
import html
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import nbformat
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from nbformat.v4 import new_markdown_cell
from PIL import Image

from helpers import artifacts, exercises, paths
from helpers.errors import CourseError

__all__ = [
    "Chapter",
    "Site",
    "SiteBuildError",
    "SiteRecordError",
    "Source",
    "chapter_goal",
    "chapter_title",
    "index_table",
    "page_source",
    "sphinx",
    "without_solutions",
]

Outcome = Literal["ran", "failed", "not run"]
_LARGEST_PNG = 150_000


class SiteBuildError(CourseError):
    """Sphinx could not make the pages."""


class SiteRecordError(CourseError):
    """The record of what the pages of a site were made from is damaged."""


@dataclass(frozen=True)
class Source:
    """What a page was made from: the model's name, the checkpoint's file and the learner's own picture (names with the
    first digits of their SHA-256; empty where there is none), the day, and whether there was a GPU.
    """

    model: str = ""
    checkpoint: str = ""
    picture: str = ""
    date: str = ""
    gpu: bool = False

    def __str__(self) -> str:
        own = f"own picture {self.picture}" if self.picture else ""
        parts = (f"model {self.model}", self.checkpoint, own, self.date, "with a GPU" if self.gpu else "no GPU")
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True)
class Chapter:
    """One notebook and what became of it. ``skipped`` counts cells that wanted a GPU and found none."""

    path: Path
    title: str
    goal: str
    outcome: Outcome = "not run"
    seconds: float = 0.0
    skipped: int = 0
    source: Source = Source()

    @property
    def page_name(self) -> str:
        return f"notebooks/{self.path.stem}.html"

    @property
    def slides_name(self) -> str:
        return f"slides/{self.path.stem}.html"


def _opening(notebook: Any) -> str:
    first = notebook.cells[0] if notebook.cells else None
    return str(first.source) if first is not None and first.cell_type == "markdown" else ""


def chapter_title(notebook: Any, fallback: str) -> str:
    """The first heading of the opening cell."""
    found = re.search(r"^#\s+(.+)$", _opening(notebook), re.MULTILINE)
    return found[1].strip() if found else fallback


def chapter_goal(notebook: Any) -> str:
    """The first paragraph after the opening heading, without Markdown marks."""
    paragraphs = [part.strip() for part in _opening(notebook).split("\n\n") if part.strip()]
    plain = next((part for part in paragraphs if not part.startswith("#")), "")
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", plain)
    return re.sub(r"[*`_]", "", re.sub(r"\s+", " ", plain))


def without_solutions(notebook: Any) -> Any:
    """A copy of the notebook without its solution cells."""
    kept = [cell for cell in notebook.cells if "solution" not in cell.metadata.get("tags", [])]
    return nbformat.from_dict({**notebook, "cells": kept})


_DOWNLOADS = """<p class="course-downloads">Made from {made}. This chapter as a notebook:
<a href="{name}" download>as it ran here</a>, <a href="student/{name}" download>to be solved</a>,
<a href="solutions/{name}" download>with the solutions</a>. <a href="../{slides}">The same as slides</a>.</p>"""
_BACK = """<p class="course-downloads">Made from {made}. <a href="../{page}">The chapter as a page</a>.</p>"""


def page_source(notebook: Any, chapter: Chapter, *, slides: bool = False) -> Any:
    """A copy of an executed notebook as Sphinx is given it: solutions folded, photographs as JPEG, alternative text for
    every figure (``mystnb.image.alt`` in the cell's metadata; else the section), of a progress bar its last state.

    ``slides``: it is to become slides, which lead to the page as the page leads to them.
    """
    notebook, _ = CoalesceStreamsPreprocessor().preprocess(copy.deepcopy(notebook), {})
    section = chapter.title
    for cell in notebook.cells:
        if cell.cell_type != "code":
            section = (re.findall(r"^#+\s+(.+)$", cell.source, re.MULTILINE) or [section])[-1]
            continue
        if "solution" in cell.metadata.get("tags", []):
            cell.metadata.tags.append("hide-cell")
        options = {"image": {"alt": f"Figure: {section}"}, **cell.metadata.get("mystnb", {})}
        cell.metadata["mystnb"] = nbformat.from_dict(options)
        # What is left of a progress bar that wiped itself out is blanks.
        cell.outputs = [one for one in cell.outputs if one.output_type != "stream" or one.text.strip()]
        for output in cell.outputs:
            _lighten(output.get("data", {}))
    places = {"name": chapter.path.name, "page": chapter.page_name, "slides": chapter.slides_name}
    links = (_BACK if slides else _DOWNLOADS).format(made=html.escape(str(chapter.source)), **places)
    notebook.cells.insert(1, new_markdown_cell(links))
    if chapter_title(notebook, "") == "":  # a page without a heading is in no table of contents
        notebook.cells.insert(0, new_markdown_cell(f"# {chapter.title}"))
    return notebook


def _lighten(data: dict[str, Any]) -> None:
    """A photograph is a tenth as many bytes as JPEG; a drawing stays the PNG that it is."""
    png = base64.b64decode(data.get("image/png", ""))
    if len(png) > _LARGEST_PNG:
        jpeg = io.BytesIO()
        picture = Image.open(io.BytesIO(png)).convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        Image.alpha_composite(white, picture).convert("RGB").save(jpeg, "JPEG", quality=85, subsampling=0)
        del data["image/png"]
        data["image/jpeg"] = base64.b64encode(jpeg.getvalue()).decode()


def sphinx(source: Path, output: Path, *, slides_from: str = "") -> None:
    """Make the pages of a folder of notebooks and Markdown files, as ``docs/conf.py`` says.

    slides_from: make slides of each, and this (a file's name without suffix) is one of them.

    Raises:
        SiteBuildError: Sphinx failed; it says why.
    """
    kind = ["-t", "slides", "-b", "revealjs", "-D", f"root_doc={slides_from}"] if slides_from else ["-j", "2"]
    trees = source.parent / f"{source.name}.doctrees"
    arguments = ["-q", *kind, "-c", paths.REPO_ROOT / "docs", "-d", trees, source, output]
    command = [sys.executable, "-m", "sphinx", *map(str, arguments)]
    done = subprocess.run(command, text=True, capture_output=True, cwd=paths.REPO_ROOT)
    if done.returncode:
        reason = ["Sphinx gave no reason", *re.findall(r"^ *[\w.]+Error: (.+)$", done.stderr, re.MULTILINE)][-1]
        raise SiteBuildError(f"the pages could not be made ({reason[:200]})", "mend that and run any chapter again")


def _share_figures(slides: Path, pages: Path) -> None:
    """Let slides show the files of the pages' figures, which have the same names: of what is in them."""
    for figure in (slides / "_images").glob("*"):
        figure.replace(pages / "_images" / figure.name)
    for deck in slides.glob("*.html"):
        deck.write_text(deck.read_text().replace(' src="_images/', ' src="../_images/'))


_INDEX = """# Mask R-CNN from PyTorch to TensorRT

Its accuracy proven step by step: [what is promised, and what holds it](docs/CONTRACT.md). Every chapter below was
executed from a fresh kernel.

<!-- chapters --><!-- end -->

```{toctree}
:hidden:
:caption: Chapters

%s
```

```{toctree}
:hidden:
:caption: Beside them

%s
```
"""
_TABLE = re.compile(r"<!-- chapters -->.*?<!-- end -->", re.DOTALL)
# Until Sphinx has run once.
_FIRST_INDEX = """<!doctype html><html lang="en">
<meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Mask R-CNN from PyTorch to TensorRT</title><h1>Mask R-CNN from PyTorch to TensorRT</h1>
<!-- chapters --><!-- end --></html>"""


def index_table(chapters: Sequence[Chapter], pages: Collection[str]) -> str:
    """The table of chapters. A page or slides that are not among ``pages``, by name, are not linked.

    The script beside the page brings the column of exercises up to date when one is solved.
    """
    rows, progress = [], exercises.progress()
    for chapter in chapters:
        title = html.escape(chapter.title)
        linked = chapter.outcome == "ran" and chapter.page_name in pages
        name = f'<a href="{chapter.page_name}">{title}</a>' if linked else title
        if linked and chapter.slides_name in pages:
            name += f' (<a href="{chapter.slides_name}" aria-label="{title}, slides">slides</a>)'
        skipped = f"; GPU cells without a GPU: {chapter.skipped}" if chapter.skipped else ""
        has_run = chapter.outcome != "not run"
        number = chapter.path.name[:2]
        rows.append(
            f'<tr><th scope="row">{name}</th><td>{html.escape(chapter.goal)}</td>'
            f'<td class="number" data-name="seconds">{f"{chapter.seconds:.0f}" if has_run else ""}</td>'
            f'<td class="{chapter.outcome.replace(" ", "-")}">{chapter.outcome}{skipped}</td>'
            f'<td data-name="made from">{html.escape(str(chapter.source)) if has_run else ""}</td>'
            f'<td class="number" data-name="exercises solved" data-exercises="{number}">'
            f"{progress.get(number, '')}</td></tr>"
        )
    names = ("chapter", "what it shows", "seconds", "outcome", "made from", "exercises solved")
    heads = "".join(f'<th scope="col">{name}</th>' for name in names)
    body = "\n".join(rows)
    table = f'<table class="table"><tr>{heads}</tr>\n{body}</table>'
    return f'<div class="course-chapters">{table}</div><script src="solved.js"></script>'


_TEXT = {"type": "string"}
_RECORD = {
    "type": "object",
    "additionalProperties": {
        "type": "object",
        "required": ["outcome", "seconds", "skipped", "source"],
        "properties": {
            "outcome": {"enum": ["ran", "failed"]},
            "seconds": {"type": "number", "minimum": 0},
            "skipped": {"type": "integer", "minimum": 0},
            "source": {
                "type": "object",
                "required": ["model", "checkpoint", "picture", "date", "gpu"],
                "properties": {
                    **dict.fromkeys(("model", "checkpoint", "picture", "date"), _TEXT),
                    "gpu": {"type": "boolean"},
                },
                "additionalProperties": False,
            },
        },
        "additionalProperties": False,
    },
}


class Site:
    """A folder with the pages of chapters, ``chapters.json`` with what each was made from, and an index that says so.

    Several processes may add chapters at once: each adds its own to what the folder holds by then. :meth:`build` makes
    the pages of all. The index links a page that is there and recorded; so whatever stops a process, it is true.
    """

    def __init__(self, folder: Path, chapters: Sequence[Chapter]) -> None:
        """``chapters``: all that the index lists, in order, as they are before they have run."""
        self.folder, self.chapters = folder, chapters

    def records(self) -> dict[str, dict[str, Any]]:
        """What is recorded of each page, by the name of its notebook.

        Raises:
            SiteRecordError: the record is not one; it names what is wrong with it.
        """
        import jsonschema

        path = self.folder / "chapters.json"
        try:
            records = artifacts.read_json(path)
            jsonschema.validate(records, _RECORD)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, jsonschema.ValidationError) as error:
            reason = error.message if isinstance(error, jsonschema.ValidationError) else str(error)
            raise SiteRecordError(
                f"the record {path} is damaged ({reason[:200]}), so no page is listed", "run the chapters again"
            ) from None
        return dict(records)

    def begin(self, chapter: Chapter) -> None:
        """Forget a chapter's page: if the chapter fails now, an earlier one would look like its result."""
        with artifacts.lock(self.folder / ".lock"):
            self._write(chapter, None)
            for name in (chapter.page_name, chapter.slides_name, f"notebooks/{chapter.path.name}"):
                (self.folder / name).unlink(missing_ok=True)

    def finish(self, chapter: Chapter, executed: Any = None) -> None:
        """Add a chapter that ran, with its executed notebook, or one that failed, without.

        Raises:
            helpers.artifacts.DiskSpaceError: the disk is full; then the chapter is not listed.
        """
        with artifacts.lock(self.folder / ".lock"):
            if executed is not None:
                asked = nbformat.read(chapter.path, as_version=4)
                versions = {"": executed, "student": without_solutions(asked), "solutions": asked}
                for place, notebook in versions.items():
                    text = nbformat.writes(nbformat.from_dict(notebook))
                    artifacts.write_text(self.folder / "notebooks" / place / chapter.path.name, text)
            entry = {"outcome": chapter.outcome, "seconds": chapter.seconds, "skipped": chapter.skipped}
            self._write(chapter, entry | {"source": asdict(chapter.source)})

    def build(self) -> None:
        """Make the pages of all chapters that the folder holds, with search and contents.

        Raises:
            SiteBuildError: Sphinx failed; the pages are those of before.
        """
        with artifacts.lock(self.folder / ".lock"):
            work = self.folder / ".building"
            shutil.rmtree(work, ignore_errors=True)  # of a process that was killed
            try:
                ran = self._lay_out(work / "source", work / "slides")
                sphinx(work / "source", work / "html")
                if ran:
                    sphinx(work / "slides", work / "decks", slides_from=ran[0].path.stem)
                    _share_figures(work / "decks", work / "html")
                    (work / "decks").rename(work / "html" / "slides")
                self._take_over(work / "html")
            except OSError as error:
                raise SiteBuildError(f"the pages could not be made ({error})", "mend that and run it again") from error
            finally:
                shutil.rmtree(work, ignore_errors=True)

    def _lay_out(self, source: Path, slides: Path) -> list[Chapter]:
        """The sources, where the repository has them: so the links between them hold. Returns the chapters that ran."""
        ran = [one for one in self._listed(self._known()) if one.outcome == "ran"]
        for chapter in ran:
            notebook = nbformat.read(self.folder / "notebooks" / chapter.path.name, as_version=4)
            for path, made in (
                (source / "notebooks", page_source(notebook, chapter)),
                (slides, page_source(notebook, chapter, slides=True)),
            ):
                artifacts.write_text(path / chapter.path.name, nbformat.writes(made))
        beside = [*sorted((paths.REPO_ROOT / "docs").glob("*.md")), *sorted(paths.MODELS.glob("*/MODEL_CARD.md"))]
        names = [path.relative_to(paths.REPO_ROOT) for path in beside]
        for path, name in zip(beside, names, strict=True):
            artifacts.write_text(source / name, path.read_text())
        listed = (f"notebooks/{one.path.stem}" for one in ran), (str(name.with_suffix("")) for name in names)
        artifacts.write_text(source / "index.md", _INDEX % tuple(map("\n".join, listed)))
        return ran

    def _take_over(self, made: Path) -> None:
        """Put what Sphinx made in its place, file by file, the index last."""
        files = [path.relative_to(made) for path in made.rglob("*") if path.is_file()]
        images = "_images/" + "[0-9a-f]" * 64 + ".*"  # as MyST-NB names them
        for old in self.folder.glob(images):
            if old.relative_to(self.folder) not in files:
                old.unlink()
        for name in sorted(files, key=lambda name: name == Path("index.html")):
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (made / name).replace(self.folder / name)
        self._write_index(self._known())

    def _known(self) -> dict[str, dict[str, Any]]:
        try:
            return self.records()
        except SiteRecordError:
            return {}

    def _write(self, chapter: Chapter, entry: dict[str, Any] | None) -> None:
        records = self._known()
        records.pop(chapter.path.stem, None)
        if entry is not None:
            records[chapter.path.stem] = entry
        artifacts.write_text(self.folder / "chapters.json", json.dumps(records, indent=1))
        self._write_index(records)

    def _write_index(self, records: dict[str, dict[str, Any]]) -> None:
        index = self.folder / "index.html"
        text = index.read_text() if index.is_file() else ""
        names = [name for one in self.chapters for name in (one.page_name, one.slides_name)]
        pages = [name for name in names if (self.folder / name).is_file()]
        artifacts.write_text(self.folder / "solved.js", exercises.progress_script())
        table = f"<!-- chapters -->{index_table(self._listed(records), pages)}<!-- end -->"
        artifacts.write_text(index, _TABLE.sub(lambda _: table, text if _TABLE.search(text) else _FIRST_INDEX))

    def _listed(self, records: dict[str, dict[str, Any]]) -> list[Chapter]:
        listed = []
        for chapter in self.chapters:
            record = records.get(chapter.path.stem)
            there = (self.folder / "notebooks" / chapter.path.name).is_file()
            if record and (record["outcome"] == "failed" or there):
                chapter = replace(chapter, **{**record, "source": Source(**record["source"])})
            listed.append(chapter)
        return listed
