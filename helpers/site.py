"""Executed notebooks as self-contained HTML pages, what each was made from, and an index of them."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import nbformat
from nbconvert import HTMLExporter
from nbconvert.preprocessors import CoalesceStreamsPreprocessor, Preprocessor

from helpers import artifacts
from helpers.errors import CourseError

__all__ = [
    "Chapter",
    "Site",
    "SiteRecordError",
    "Source",
    "chapter_goal",
    "chapter_title",
    "external_references",
    "index_page",
    "page",
]

Outcome = Literal["ran", "failed", "not run"]


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
        return f"{self.path.stem}.html"


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
    return re.sub(r"[*`_]", "", re.sub(r"\s+", " ", plain))


_STYLE = """
<style>
:root { --ink:#1f2328; --soft:#59636e; --line:#d1d9e0; --link:#0969da; }
.course-nav { display:flex; gap:1.5rem; justify-content:space-between; max-width:1060px; margin:0 auto;
  padding:.8rem 1rem; font:15px/1.4 system-ui,sans-serif; }
.course-nav a { color:var(--link); text-decoration:none; }
body.jp-Notebook, main { max-width:1060px !important; margin:0 auto !important; }
.jp-RenderedHTMLCommon { font-size:16px; line-height:1.55; }
.jp-RenderedImage img { max-width:100%; height:auto; }
.jp-OutputArea-output { overflow-x:auto; }
.jp-RenderedText[data-mime-type="application/vnd.jupyter.stderr"] { background:#f6f8fa; }
details.course-solution { border:1px solid var(--line); border-radius:6px; padding:.4rem .8rem; margin:.6rem 0; }
details.course-solution summary { cursor:pointer; font:15px system-ui,sans-serif; }
</style>
"""

# nbconvert's template loads MathJax and RequireJS from the network; the pages must work without one.
_FOREIGN = re.compile(r"<script\b[^>]*\bsrc=[\"']https?://[^>]*>.*?</script>", re.DOTALL | re.IGNORECASE)
_MATHJAX = re.compile(r"<!-- Load mathjax -->.*?<!-- End of mathjax configuration -->", re.DOTALL)
_MERMAID = re.compile(r"<script type=\"module\">\s*document\.addEventListener.*?</script>", re.DOTALL)


def external_references(page: str) -> list[str]:
    """Addresses outside the page that a browser would fetch to show it (links that a reader clicks do not count)."""
    tags = re.findall(r"<(?:script|img|iframe|link|source|video)\b[^>]*>", page, re.IGNORECASE)
    found = [url for tag in tags for url in re.findall(r"(?:src|href)=[\"'](https?://[^\"']+)", tag)]
    found += re.findall(r"import\s*\(?\s*[\"'](https?://[^\"']+)", page)
    return found + re.findall(r"url\(\s*[\"']?(https?://[^)\"']+)", page)


def _navigation(before: Chapter | None, after: Chapter | None) -> str:
    def link(chapter: Chapter | None, arrow: str) -> str:
        if chapter is None:
            return "<span></span>"
        return f'<a href="{chapter.page_name}">{arrow.format(html.escape(chapter.title))}</a>'

    return (
        f'<nav class="course-nav">{link(before, "← {}")}<a href="index.html">All chapters</a>'
        f"{link(after, '{} →')}</nav>"
    )


_CELL = re.compile(r'(<div\b[^>]*class="[^"]*celltag_solution[^"]*"[^>]*>)')


class _DropEmptyStreams(Preprocessor):
    """What is left of a progress bar that wiped itself out: blanks."""

    def preprocess_cell(self, cell: Any, resources: Any, index: int) -> tuple[Any, Any]:
        if "outputs" in cell:
            cell.outputs = [one for one in cell.outputs if one.output_type != "stream" or one.text.strip()]
        return cell, resources


def page(notebook: Any, chapter: Chapter, before: Chapter | None = None, after: Chapter | None = None) -> str:
    """One executed notebook as one HTML file that needs no network: pictures inside, solutions folded, of a progress
    bar its last state.
    """
    exporter = HTMLExporter(template_name="lab", embed_images=True)
    exporter.register_preprocessor(CoalesceStreamsPreprocessor, enabled=True)
    exporter.register_preprocessor(_DropEmptyStreams, enabled=True)
    body, _ = exporter.from_notebook_node(nbformat.from_dict(notebook))
    body = _MERMAID.sub("", _MATHJAX.sub("", _FOREIGN.sub("", body)))
    body = _wrap_solutions(body)
    navigation = _navigation(before, after)
    body = re.sub(r"<title>.*?</title>", f"<title>{html.escape(chapter.title)}</title>", body, count=1, flags=re.DOTALL)
    body = body.replace("</head>", f"{_STYLE}</head>", 1)
    body = re.sub(r"(<body\b[^>]*>)", lambda found: found[1] + navigation, body, count=1)
    return body.replace("</body>", f"{navigation}</body>", 1)


def _wrap_solutions(body: str) -> str:
    """Fold every cell tagged ``solution`` into a <details> element, by balancing the cell's <div>s."""
    parts, position = [], 0
    for found in _CELL.finditer(body):
        if found.start() < position:
            continue
        depth, end = 0, found.start()
        for tag in re.finditer(r"<div\b|</div>", body[found.start() :]):
            depth += 1 if tag[0].startswith("<div") else -1
            if depth == 0:
                end = found.start() + tag.end()
                break
        parts.append(body[position : found.start()])
        parts.append('<details class="course-solution"><summary>Show the solution</summary>')
        parts += [body[found.start() : end], "</details>"]
        position = end
    return "".join([*parts, body[position:]])


_INDEX = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Mask R-CNN from PyTorch to TensorRT</title>
<style>
body {{ font:17px/1.55 system-ui,sans-serif; color:#1f2328; max-width:980px; margin:2.5rem auto; padding:0 1rem; }}
table {{ border-collapse:collapse; width:100%; }}
th, td {{ text-align:left; padding:.55rem .6rem; border-bottom:1px solid #d1d9e0; vertical-align:top; }}
td.number {{ text-align:right; white-space:nowrap; font-variant-numeric:tabular-nums; }}
a {{ color:#0969da; text-decoration:none; }} .soft {{ color:#59636e; font-size:15px; }}
.ran {{ color:#1a7f37; }} .failed {{ color:#cf222e; font-weight:600; }} .not-run {{ color:#59636e; }}
</style></head><body>
<h1>Mask R-CNN from PyTorch to TensorRT</h1>
<p>Its accuracy proven at every step. Every page below was executed from a fresh kernel.</p>
<table><thead><tr><th>chapter</th><th>what it shows</th><th>seconds</th><th>outcome</th><th>made from</th></tr></thead>
<tbody>{rows}</tbody></table>
</body></html>
"""


def index_page(chapters: Sequence[Chapter]) -> str:
    """The table of chapters. A chapter that did not run, or failed, has no link: its page would not be true."""
    rows = []
    for chapter in chapters:
        title = html.escape(chapter.title)
        name = f'<a href="{chapter.page_name}">{title}</a>' if chapter.outcome == "ran" else title
        skipped = f"; {chapter.skipped} GPU cells without a GPU" if chapter.skipped else ""
        has_run = chapter.outcome != "not run"
        rows.append(
            f'<tr><td>{name}</td><td class="soft">{html.escape(chapter.goal)}</td>'
            f'<td class="number">{f"{chapter.seconds:.0f}" if has_run else ""}</td>'
            f'<td class="{chapter.outcome.replace(" ", "-")}">{chapter.outcome}{skipped}</td>'
            f'<td class="soft">{html.escape(str(chapter.source)) if has_run else ""}</td></tr>'
        )
    return _INDEX.format(rows="\n".join(rows))


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

    Several processes may add pages at once: each adds its own to what the folder holds by then. A page is listed if it
    is there and recorded; so whatever stops a process, the index is true.
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
            (self.folder / chapter.page_name).unlink(missing_ok=True)

    def finish(self, chapter: Chapter, content: str | None = None) -> None:
        """Add a chapter that ran, with its page, or one that failed, without.

        Raises:
            helpers.artifacts.DiskSpaceError: the disk is full; then the page is not listed.
        """
        with artifacts.lock(self.folder / ".lock"):
            if content is not None:
                artifacts.write_text(self.folder / chapter.page_name, content)
            entry = {"outcome": chapter.outcome, "seconds": chapter.seconds, "skipped": chapter.skipped}
            self._write(chapter, entry | {"source": asdict(chapter.source)})

    def _write(self, chapter: Chapter, entry: dict[str, Any] | None) -> None:
        try:
            records = self.records()
        except SiteRecordError:
            records = {}
        records.pop(chapter.path.stem, None)
        if entry is not None:
            records[chapter.path.stem] = entry
        artifacts.write_text(self.folder / "chapters.json", json.dumps(records, indent=1))
        artifacts.write_text(self.folder / "index.html", index_page(self._listed(records)))

    def _listed(self, records: dict[str, dict[str, Any]]) -> list[Chapter]:
        listed = []
        for chapter in self.chapters:
            record = records.get(chapter.path.stem)
            if record and (record["outcome"] == "failed" or (self.folder / chapter.page_name).is_file()):
                chapter = replace(chapter, **{**record, "source": Source(**record["source"])})
            listed.append(chapter)
        return listed
