"""Cells taken out of a chapter run by themselves."""

from __future__ import annotations

import subprocess
import sys

import nbformat
import pytest
from click.testing import CliRunner
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from helpers import extraction, paths
from helpers.extraction import SelectionError, chapter_file, extract, headings, needed, tags
from scripts.extract_cells import main

NOTEBOOKS = sorted(paths.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
SECTION = "Is the checkpoint the published one?"


def chapter(*sources):
    """The first cell is the set-up; the others stand under a heading."""
    first, *others = (new_code_cell(source, metadata={"tags": ["demo"]}) for source in sources)
    return new_notebook(cells=[new_markdown_cell("# 1. One"), first, new_markdown_cell("## Two"), *others])


@pytest.mark.parametrize(
    ("sources", "wanted"),
    [
        (["a = 1", "b = 2", "a"], []),
        (["", "a = 1", "b = a", "c = 3", "b"], [0, 1]),
        (["", "a = 1", "a = 2", "a"], [1]),
        (["", "a = 1", "if a: a = 2", "a"], [0, 1]),
        (["", "a = 1", "for a in []: pass", "a"], [0, 1]),
        (["", "a = 1", "with open('x') as a: pass", "a"], [1]),
        (["", "a = 1", "try:\n    a = 2\nexcept OSError: pass", "a"], [0, 1]),
        (["", "a = []", "a.append(1)", "print(a)", "a"], [0, 1]),
        (["", "a = {}", "a['b'].c = 1", "a"], [0, 1]),
        (["", "a = 0", "a += 1", "a"], [0, 1]),
        (["", "file = 'x'", "import torch\ntorch.save(1, str(file))", "file"], [0, 1]),
        (["import torch", "torch.manual_seed(0)", "data = [1]", "figure(data)\nplt.show()", "torch, data"], [1]),
        (["", "a = 1", "def f(): return a", "a = 2", "f()"], [0, 1, 2]),
        (["", "def f(): return a", "a = 1", "g = lambda: f()", "g()"], [0, 1, 2]),
        (["", "E = 1", "e = 1", "try: pass\nexcept E as e: e"], [0]),
        (["", "x = 1", "y = [1]", "[x for x in y]"], [1]),
        (["", "x = 1", "{x: {x for x in []} for x in []}", "x"], [0]),
        (["", "a = 1", "a = 2\nfor b in [1]:\n    c = b\n    a, b, c"], []),
    ],
)
def test_what_a_cell_needs(sources, wanted):
    """Places are counted from the first cell under the heading; the last cell is the chosen one."""
    notebook = chapter(*sources)
    last = len(notebook.cells) - 1
    assert sorted(needed(notebook, {last}) - {last}) == [1, *(place + 3 for place in wanted)]


def test_no_extraction_of_any_chapter_uses_a_name_that_it_does_not_define(tmp_path):
    """Ruff's word, which knows nothing of how cells were chosen: by each heading, each tag, and each cell alone."""
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        made = [extract(notebook, [tag], []).cells for tag in tags(notebook)]
        made += [extract(notebook, [], [one]).cells for one in headings(notebook) if has_code(notebook, one)]
        for place in range(len(notebook.cells)):
            made.append([notebook.cells[one] for one in sorted({place} | needed(notebook, {place}))])
        for number, cells in enumerate(made):
            source = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
            (tmp_path / f"{path.stem}_{number}.py").write_text(source)
    assert len(list(tmp_path.iterdir())) > 500
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--select", "F821", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


def has_code(notebook, heading):
    try:
        return bool(extract(notebook, [], [heading]))
    except SelectionError:
        return False


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_set_up_cells_always_come_along(path):
    notebook = nbformat.read(path, as_version=4)
    set_up = [cell.id for cell in notebook.cells if "setup" in cell.metadata.get("tags", [])]
    exercises = extract(notebook, ["exercise"])
    assert set_up == [cell.id for cell in exercises.cells if cell.id in set_up]
    nbformat.validate(exercises)
    asked = [place for place, cell in enumerate(notebook.cells) if "exercise" in cell.metadata.get("tags", [])]
    texts = {notebook.cells[place - 1].id for place in asked if notebook.cells[place - 1].cell_type == "markdown"}
    assert {notebook.cells[place].id for place in asked} | texts <= {cell.id for cell in exercises.cells}


def test_tags_and_headings_choose_together():
    notebook = nbformat.read(chapter_file("00"), as_version=4)
    sources = [cell.source for cell in extract(notebook, ["solution"], ["summary"]).cells]
    assert sources[0].startswith("# 0. Set-up check\n")
    assert sum("is_solution=True" in source for source in sources) == 2
    with pytest.raises(SelectionError, match="no cell under these headings has such a tag"):
        extract(notebook, ["gpu"], ["Summary"])


def test_an_extraction_runs_by_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_BUILD", str(tmp_path / "build"))
    done = CliRunner().invoke(main, ["0", "--heading", SECTION, "--output", str(tmp_path / "some.ipynb")])
    assert done.exit_code == 0, done.output
    assert "run it in" in done.output
    extracted = nbformat.read(tmp_path / "some.ipynb", as_version=4)
    assert len([cell for cell in extracted.cells if cell.cell_type == "code"]) == 4
    NotebookClient(extracted, resources={"metadata": {"path": str(paths.REPO_ROOT)}}).execute()
    assert any("SHA-256" in str(cell.get("outputs")) for cell in extracted.cells)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["42", "--tag", "gpu"], "error: there is no chapter '42': use one of: 00_setup_check, 01_arch"),
        (
            ["5", "--tag", "cpu"],
            "error: the chapter has no tag 'cpu': use one of: setup; demo; gpu; exercise; solution.",
        ),
        (["5", "--heading", "Nothing"], "no heading 'Nothing': use one of: The article's way"),
        (["00"], "error: nothing is chosen: name a tag (setup; demo"),
        (["00", "--tag", "gpu", "--output", "."], "is a directory"),
        (["00", "--tag", "gpu", "--output", __file__], f"error: {__file__} is there already: name another --output"),
        ([], "Missing argument 'CHAPTER'"),
    ],
)
def test_what_cannot_be_extracted_is_said_in_a_sentence(arguments, words, tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_BUILD", str(tmp_path))
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert words in done.output
    assert list(tmp_path.iterdir()) == []


def test_a_notebook_that_is_there_is_overwritten_only_when_told(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_BUILD", str(tmp_path))
    assert CliRunner().invoke(main, ["00", "--tag", "gpu"]).exit_code == 0
    made = tmp_path / "extracted" / "00_setup_check.ipynb"
    made.write_text("mine")
    assert CliRunner().invoke(main, ["00", "--tag", "gpu"]).exit_code == 2
    assert made.read_text() == "mine"
    assert CliRunner().invoke(main, ["00", "--tag", "gpu", "--force"]).exit_code == 0
    assert extraction.tags(nbformat.read(made, as_version=4)) == ["setup", "gpu"]
