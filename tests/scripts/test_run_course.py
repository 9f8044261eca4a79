"""The headless run, on tiny notebooks made here."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from helpers import paths, site
from helpers.errors import CourseError
from scripts import run_course

PICTURE = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()"


def notebook(title, *cells):
    return new_notebook(
        cells=[new_markdown_cell(f"# {title}\n\nThe **goal** of `{title}`.\n\nMore."), *cells],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )


def code(source, *tags):
    return new_code_cell(source, metadata={"tags": list(tags)})


@pytest.fixture
def course(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_BUILD", str(tmp_path / "build"))
    monkeypatch.delenv("COURSE_IMAGE", raising=False)
    monkeypatch.setenv("COURSE_MODEL", "emoji")
    folder = tmp_path / "notebooks"
    folder.mkdir()
    good = notebook("One", code("print('hello')"), code(PICTURE), code("print('live?')", "gpu"), code("42", "solution"))
    nbformat.write(good, folder / "01_one.ipynb")
    nbformat.write(notebook("Two", code("import os\nprint(os.getcwd())")), folder / "02_two.ipynb")
    nbformat.write(notebook("Three", code("x = 1\nraise ValueError('the reason')")), folder / "03_three.ipynb")
    return folder


def run(course, *arguments):
    return run_course.main(["--notebooks", str(course), *arguments])


def test_the_site(course, tmp_path, capfd):
    assert run(course, "--only", "1,02", "--jobs", "2") == 0
    said = capfd.readouterr().out
    assert "01_one" in said
    assert "1 GPU cells found no GPU" in said or run_course.gpu_available()
    folder = tmp_path / "build" / "site"
    index = (folder / "index.html").read_text()
    assert 'href="01_one.html"' in index
    assert "The goal of One." in index
    assert "03_three.html" not in index  # it did not run
    one = (folder / "01_one.html").read_text()
    assert "hello" in one
    assert "data:image/png;base64" in one
    assert 'href="02_two.html"' in one
    assert '<details class="course-solution">' in one
    assert str(paths.REPO_ROOT) in (folder / "02_two.html").read_text()
    for page in folder.glob("*.html"):
        assert site.external_references(page.read_text()) == [], page.name
    # Pages of an earlier run stay in the index.
    assert run(course, "--only", "02") == 0
    assert 'href="01_one.html"' in (folder / "index.html").read_text()
    assert set(json.loads((folder / "chapters.json").read_text())) == {"01_one", "02_two"}


def test_a_failing_chapter_is_named_last_and_not_rendered_and_the_others_run(course, tmp_path, capfd):
    folder = tmp_path / "build" / "site"
    folder.mkdir(parents=True)
    (folder / "03_three.html").write_text("an earlier run")
    assert run(course) == 1
    streams = capfd.readouterr()
    assert streams.err.rstrip().endswith("ValueError: the reason")
    assert "raise ValueError" in streams.err
    assert "03_three.ipynb failed" in streams.err
    assert not (folder / "03_three.html").exists()
    assert (folder / "02_two.html").exists()
    index = (folder / "index.html").read_text()
    assert 'class="failed"' in index
    assert 'href="03_three.html"' not in index


def script(*arguments, **environment):
    command = [sys.executable, str(paths.REPO_ROOT / "scripts" / "run_course.py"), *map(str, arguments)]
    # A shell that puts the tests in the background has Ctrl-C ignored, and children inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["--only", "17"], {}, "there is no chapter 17: choose from"),
        (["--image", "no.jpg"], {}, "cannot read the picture no.jpg"),
        (["--checkpoint", "no.pth"], {}, "there is no checkpoint at"),
        ([], {"COURSE_MODEL": "r101"}, "there is no model named 'r101': use one of: emoji, r50"),
    ],
)
def test_bad_input_is_named(monkeypatch, tmp_path, arguments, environment, words):
    # main tells the kernels by these variables; monkeypatch puts them all back.
    usual = {"COURSE_BUILD": str(tmp_path), "COURSE_MODEL": "emoji", "COURSE_CHECKPOINT": "", "COURSE_IMAGE": ""}
    for name, value in (usual | environment).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(CourseError, match=re.escape(words)):
        run_course.main(arguments)


def test_bad_input_is_one_sentence_to_the_user(tmp_path):
    process = script("--only", "17", COURSE_BUILD=str(tmp_path))
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert said.startswith("there is no chapter 17: choose from")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("seconds", [0.3, 4], ids=["the kernel is starting", "the cell is running"])
def test_an_interrupt_keeps_finished_pages_whole_and_ends_the_kernel(course, tmp_path, seconds):
    (course / "03_three.ipynb").unlink()
    nbformat.write(notebook("Slow", code("import time\ntime.sleep(600)")), course / "02_two.ipynb")
    process = script("--notebooks", course, COURSE_BUILD=str(tmp_path / "build"))
    folder = tmp_path / "build" / "site"
    deadline = time.monotonic() + 120
    while not (folder / "01_one.html").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "interrupted" in said
    assert "Traceback" not in said
    index = (folder / "index.html").read_text()
    assert 'href="01_one.html"' in index
    assert 'href="02_two.html"' not in index
    assert not [file for file in folder.iterdir() if file.name.startswith(".")]
    with pytest.raises(ProcessLookupError):  # the kernel was in the same process group
        os.killpg(process.pid, 0)


def test_an_interrupt_ends_a_kernel_that_was_only_starting():
    class Client:
        km = None

    running, client, ended = run_course.Running(), Client(), []

    def start_late():
        time.sleep(0.5)
        with subprocess.Popen(["sleep", "60"]) as process:
            client.km = SimpleNamespace(provisioner=SimpleNamespace(process=process))
            ended.append(process.wait())
        running.clients.discard(client)

    running.clients.add(client)
    thread = threading.Thread(target=start_late)
    thread.start()
    running.stop()
    assert ended == [-signal.SIGKILL]
    thread.join()


def test_external_references_are_seen():
    assert site.external_references('<script src="https://x.org/a.js"></script>') == ["https://x.org/a.js"]
    assert site.external_references("<style>a{background:url(https://x.org/b.png)}</style>") == ["https://x.org/b.png"]
    assert site.external_references('<a href="https://x.org">a link</a>') == []


def test_of_a_progress_bar_the_page_keeps_the_last_state():
    cell = code("for _ in tqdm(range(3)): pass")
    steps = ["\rone 0/3", "\rone 1/3", "\rone 3/3", "\n", "\rtwo 0/3", "\rtwo 3/3", "\r       ", "\r"]
    cell.outputs = [new_output("stream", name="stderr", text=text) for text in steps]
    silent = code("for _ in tqdm(range(3), leave=False): pass")
    silent.outputs = [new_output("stream", name="stderr", text=text) for text in steps[4:]]
    before = [len(cell.outputs), len(silent.outputs)]
    page = site.page(notebook("T", cell, silent), site.Chapter(paths.NOTEBOOKS / "01_x.ipynb", "T", ""))
    assert "one 3/3" in page
    assert not [left for left in ("one 0/3", "one 1/3", "two 0/3", "two 3/3") if left in page]
    assert page.count('data-mime-type="application/vnd.jupyter.stderr"') == 1 + site._STYLE.count("jupyter.stderr")
    assert [len(cell.outputs), len(silent.outputs)] == before, "the executed notebook itself is left alone"


def test_a_solution_is_folded_whole():
    cell = code("1 + 1", "solution")
    cell.outputs = [new_output("stream", text="the answer")]
    made = notebook("T", cell, code("2"))
    page = site.page(made, site.Chapter(paths.NOTEBOOKS / "01_x.ipynb", "T", ""))
    inside = page.split('<details class="course-solution">')[1].split("</details>")[0]
    assert "the answer" in inside
    assert page.count("<details") == page.count("</details>") == 1
