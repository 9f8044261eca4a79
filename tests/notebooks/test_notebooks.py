"""Every notebook: its form, and that it runs with plain nbconvert."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import cv2
import nbformat
import pytest

from helpers import paths
from helpers.detector.preprocess import read_picture
from helpers.site import without_solutions

#: What a reader may look up, by the anchor of its entry in docs/GLOSSARY.md. (Everyday words, as "export", are not.)
WORDS = {
    "anchor": r"\banchors?\b",
    "ap": r"\bAP\b",
    "backbone-and-neck": r"\bbackbone\b",
    "bundle": r"\bbundles?\b",
    "class-offset": r"\bclass offsets?\b|\boffsets? by class\b",
    "dynamic-axis": r"\bdynamic ax[ei]s\b",
    "engine": r"\bengines?\b",
    "fp32-island": r"\bislands?\b",
    "fpn-level": r"\bFPN\b|\bfeature pyramid\b|\bpyramid levels?\b",
    "half-precision": r"\b[Hh]alf[- ]precision\b",
    "iou": r"\bIoU\b",
    "logits": r"\blogits\b",
    "nms": r"\bNMS\b",
    "opset": r"\bopset\b",
    "optimization-profile": r"\boptimi[sz]ation profiles?\b",
    "parity": r"\bparity\b",
    "plugin": r"\bplugins?\b",
    "proposal": r"\bproposals?\b",
    "qdq": r"\bQDQ\b",
    "roi": r"\bRoIs?\b",
    "roialign": r"\bRoIAlign\b",
    "rpn": r"\bRPN\b",
}
#: Of a Markdown cell: code, headings, tables, formulas, links to elsewhere.
NO_PROSE = re.compile(
    r"```.*?```|^#.*?$|^\|.*?$|`[^`\n]*`|\$\$.*?\$\$|!?\[[^\]]*\]\((?!\.\./docs/GLOSSARY)[^)]*\)",
    re.DOTALL | re.MULTILINE,
)
NOTEBOOKS = sorted(paths.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
TAGS = {"setup", "demo", "gpu", "exercise", "solution"}
#: What measures time or memory of this machine.
MEASURES = re.compile(r"\bperf_counter\(|\bmeasure_\w+\(|\bprofile\.profile\(|\bmatrix_product_limit\(|\bin_pairs\(")


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


def read(path):
    return nbformat.read(path, as_version=4)


def test_there_are_notebooks():
    assert NOTEBOOKS


def test_form(path):
    notebook = read(path)
    nbformat.validate(notebook)
    opening = notebook.cells[0].source
    assert opening.startswith("# ")
    for word in ("**Goals.**", "**Prerequisites.**", "**Run time.**"):
        assert word in opening, word
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert "setup" in code[0].metadata.tags
    for cell in code:
        assert cell.outputs == [], "a notebook is committed without outputs"
        assert cell.execution_count is None
        assert set(cell.metadata.get("tags", [])) & TAGS, f"a cell without a tag: {cell.source[:60]!r}"
        assert set(cell.metadata.get("tags", [])) <= {*TAGS, "alone"}
        assert "alone" in cell.metadata.tags or not MEASURES.search(cell.source), (
            "it measures, so nothing runs beside it"
        )


def test_it_ends_with_exercises_whose_solutions_follow_them(path):
    cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
    tags = [cell.metadata.tags[0] for cell in cells if {"exercise", "solution"} & set(cell.metadata.tags)]
    assert 2 <= tags.count("exercise") <= 3
    assert tags == ["exercise", "solution"] * tags.count("exercise")
    for cell in cells:
        folded = cell.metadata.get("jupyter", {}).get("source_hidden", False)
        assert folded == ("solution" in cell.metadata.tags), "a solution, and nothing else, is folded in JupyterLab"
        if "exercise" in cell.metadata.tags:
            assert "= ..." in cell.source
        if {"exercise", "solution"} & set(cell.metadata.tags):
            assert "check(" in cell.source
    assert any("## Summary" in cell.source for cell in read(path).cells if cell.cell_type == "markdown")


def test_what_it_claims_is_asserted(path):
    sources = [cell.source for cell in read(path).cells if cell.cell_type == "code"]
    assert sum("assert " in source or "raise AssertionError" in source for source in sources) >= 2


def test_each_figure_says_in_words_what_it_shows(path):
    """For those who do not see it: the alternative text that MyST-NB reads from the metadata of the cell that draws."""
    texts = []
    for cell in read(path).cells:
        text = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
        drawing = r"plt\.show\(\)|_figure\(|\.subplots\(|\.plot\.|drawing\.strip\("
        draws = cell.cell_type == "code" and re.search(drawing, cell.source)
        assert bool(text) == bool(draws), cell.source[:80]
        if draws:
            assert "plt.show()" in cell.source, "drawn in one cell and shown in another"
            assert len(text.split()) >= 10
            texts.append(text)
    assert len(set(texts)) == len(texts)


def test_the_text_of_a_record_is_escaped(path):
    """pandas' tables escape by themselves, its styled ones where they are told to."""
    for cell in read(path).cells:
        if "evidence.load" in cell.source and ".style" in cell.source:
            assert 'escape="html"' in cell.source


def test_no_conclusion_is_drawn_from_all_of_nothing(path):
    """What a cell goes through in a record, it asks `evidence.load` to refuse if it is empty."""
    for cell in read(path).cells:
        if "evidence.load" in cell.source:
            needed = re.search(r"evidence\.load\([^\[]*\[(.*?)\]\)", cell.source)
            used = re.findall(r"(?: in record|\(record)\[\"([^\"]+)\"\](?:\.values\(\))?[\])\s]", cell.source)
            assert needed
            assert set(used) <= set(re.findall(r'"([^"]+)"', needed[1]))


def test_its_metadata_says_what_it_is_made_from(path):
    """The index of the site shows it: `model` where that is not the chosen one, `brings_model` where the chapter makes
    one, `own_picture` where it takes one."""
    notebook = read(path)
    source = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    chosen = re.search(r"\b(model_spec|load_detector|current_model_name)\(\)", source)
    brought = "build_random_detector(models.own_model(" in source
    expected = {} if chosen else {"brings_model": True} if brought else {"model": "emoji"}
    assert chosen or brought or 'load_detector("emoji")' in source
    expected |= {"own_picture": True} if "own_pictures()" in source else {}
    about = dict(notebook.metadata.get("course", {}))
    assert about.pop("long", True) is True  # of run_course.sh
    assert about == expected


def test_a_word_of_the_glossary_is_linked_where_it_is_first_used(path):
    prose = "\n\n".join(NO_PROSE.sub("", cell.source) for cell in read(path).cells if cell.cell_type == "markdown")
    for anchor, word in WORDS.items():
        if first := re.search(word, prose):
            assert re.match(rf"[^\[\]]*\]\(\.\./docs/GLOSSARY\.md#{anchor}\)", prose[first.end() :]), first[0]
    headings = re.findall(r"^## (.+)$", (paths.REPO_ROOT / "docs" / "GLOSSARY.md").read_text(), re.MULTILINE)
    anchors = {heading.lower().replace(" ", "-") for heading in headings}
    assert set(re.findall(r"GLOSSARY\.md#([^)]*)", prose)) | WORDS.keys() <= anchors


def test_mmdets_own_loader_opens_what_was_verified_and_it_is_said_why(path):
    """It takes torch's default, which a variable can switch to running what a checkpoint holds."""
    source = "\n".join(cell.source for cell in read(path).cells)
    if "init_detector(" in source:
        assert source.index("= models.load_detector()") < source.index("= init_detector(")
        assert "`TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD` is set" in source


def execute(path, cwd, output, picture=None):
    command = [sys.executable, "-m", "jupyter", "nbconvert", "--to", "notebook", "--execute", str(path)]
    command += ["--ExecutePreprocessor.timeout=3600", "--output-dir", str(output)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"COURSE_IMAGE": str(picture)} if picture else {}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_all_find_the_helpers_in_the_same_way(path):
    """The first one is run from its own folder below; what that shows then holds for all."""
    first, this = (
        next(cell.source for cell in read(p).cells if cell.cell_type == "code") for p in (NOTEBOOKS[0], path)
    )
    assert this.splitlines()[:4] == first.splitlines()[:4]
    assert "sys.path.insert(0," in first


def test_it_runs_with_plain_nbconvert(path, tmp_path):
    """From the repository's root; the first one from the notebooks' folder."""
    finished = execute(path, paths.NOTEBOOKS if path == NOTEBOOKS[0] else paths.REPO_ROOT, tmp_path)
    assert finished.returncode == 0, finished.stderr[-3000:]
    done = read(tmp_path / path.name)
    assert all(cell.execution_count for cell in done.cells if cell.cell_type == "code" and cell.source.strip())
    outputs = [output for cell in done.cells for output in cell.get("outputs", [])]
    said = "".join(output.text for output in outputs if output.get("name") == "stderr")
    assert not re.findall(r"(?:ipykernel_|/helpers/|/patches/)\S*:\d+: \w*Warning.*", said), "our own code is warned of"


DEMO = paths.DATA / "demo"


#: Files that a reader may give: names of the fixture ``unusual_pictures``, pieces of `crowd` (rows, columns), another
#: picture under the name of a demo picture, a demo picture once more.
UNUSUAL = ("nothing.png", "one.png", "long.png", "tall.png", "few.png")
PIECES = {"four_to_three.png": (800, 1066), "three_to_four.png": (800, 600), "square.png": (800, 800)}
OF_ANY_KIND = (*UNUSUAL, *PIECES, "crowd.jpg", "twins.jpg")


def own_picture_chapters():
    """Each with each picture; chapter 04 takes minutes, and does the same with each, so it gets the doubtful ones."""
    for path in NOTEBOOKS:
        if read(path).metadata.get("course", {}).get("own_picture"):
            few = path.stem.startswith("04_")
            for picture in ("nothing.png", "long.png", "three_to_four.png") if few else OF_ANY_KIND:
                yield pytest.param(path, picture, id=f"{path.stem[:2]}-{picture}")


@pytest.mark.slow
@pytest.mark.parametrize(("chapter", "name"), list(own_picture_chapters()))
def test_it_runs_on_a_picture_of_any_kind(chapter, name, tmp_path, unusual_pictures):
    picture = DEMO / name
    if name != "twins.jpg":
        rows, columns = PIECES.get(name, (684, None))
        piece = read_picture(DEMO / ("crowd.jpg" if name in PIECES else "huge.jpg"))[:rows, :columns]
        picture = tmp_path / name
        cv2.imwrite(str(picture), unusual_pictures.get(picture.stem, piece))
    finished = execute(chapter, paths.REPO_ROOT, tmp_path, picture)
    assert finished.returncode == 0, finished.stderr[-3000:]
    shown = (tmp_path / chapter.name).read_text()
    taken = {
        "01": f"{name}: no object with a score of at least 0.5",
        "02": f"{picture.stem} (yours): ",
        "04": "standard, lean, your picture",
    }
    number = chapter.stem[:2]
    assert (taken[number] in shown) == (number != "01" or name == "nothing.png")


def test_the_student_version_lacks_the_solutions_and_nothing_else(path):
    whole = read(path)
    student = without_solutions(whole)
    nbformat.validate(student)
    assert not any("solution" in cell.metadata.get("tags", []) for cell in student.cells)
    kept = [cell for cell in whole.cells if "solution" not in cell.metadata.get("tags", [])]
    assert [cell.source for cell in student.cells] == [cell.source for cell in kept]
    assert len(student.cells) < len(whole.cells)
