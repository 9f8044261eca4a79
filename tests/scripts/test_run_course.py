"""The headless run, on tiny notebooks made here."""

from __future__ import annotations

import hashlib
import html
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from types import SimpleNamespace
from xml.etree import ElementTree

import cv2
import jsonschema
import nbformat
import numpy as np
import psutil
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from helpers import artifacts, evidence, paths, run_report, site
from helpers.errors import CourseError
from scripts import run_course

GPU_CELL = {"number": 3, "begins": "print('live?')", "why": "no GPU"}
PICTURE = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()"


def notebook(title, *cells):
    return new_notebook(
        cells=[new_markdown_cell(f"# {title}\n\nThe **goal** of `{title}`.\n\nMore."), *cells],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )


def code(source, *tags):
    return new_code_cell(source, metadata={"tags": list(tags)})


def pages_alone(source, output, **_):
    """In place of Sphinx, which tests/test_site.py tries: a page for each source, with its text."""
    for path in source.rglob("*.*"):
        page = (output / path.relative_to(source)).with_suffix(".html")
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(path.read_text())


@pytest.fixture
def course(tmp_path, monkeypatch):
    monkeypatch.setattr(site, "sphinx", pages_alone)
    monkeypatch.setenv("COURSE_BUILD", str(tmp_path / "build"))
    monkeypatch.setenv("COURSE_IMAGE", "")
    monkeypatch.setenv("COURSE_CHECKPOINT", "")
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


def reported(folder):
    """The two files of a report, read: the record, which has its form, and the outcomes in the XML, by test case."""
    record = evidence.load(folder / "run.json")
    jsonschema.validate(record, run_report.SCHEMA)
    suite = ElementTree.fromstring((folder / "junit.xml").read_bytes())
    cases = {case.get("name"): [part.tag for part in case if part.tag != "system-out"] for case in suite}
    counted = {name: int(suite.get(name)) for name in ("tests", "failures", "errors", "skipped")}
    kinds = [kind for case in cases.values() for kind in case]
    assert counted == {
        "tests": len(cases),
        "failures": kinds.count("failure"),
        "errors": kinds.count("error"),
        "skipped": kinds.count("skipped"),
    }
    return record, cases


def test_the_site(course, tmp_path, capfd):
    assert run(course, "--only", "1,02", "--jobs", "2") == 0
    said = capfd.readouterr().out
    assert "01_one" in said
    assert "GPU cells without a GPU: 1" in said or run_course.gpu_available()
    folder = tmp_path / "build" / "site"
    index = (folder / "index.html").read_text()
    assert 'href="notebooks/01_one.html"' in index
    assert "The goal of One." in index
    assert "03_three.html" not in index  # it did not run
    one = (folder / "notebooks" / "01_one.html").read_text()
    assert "hello" in one
    assert "image/png" in one
    assert str(paths.REPO_ROOT) in (folder / "notebooks" / "02_two.html").read_text()


def rows(folder):
    """The index's rows, by the chapter's title, as text."""
    index = (folder / "index.html").read_text()
    found = [re.sub(r"<[^>]+>", "|", row) for row in re.findall(r"<tr>(.*?)</tr>", index)[1:]]
    return {row.strip("|").split("|")[0]: html.unescape(row) for row in found}


def record_of(model, picture=""):
    source = {"model": model, "checkpoint": f"{model}.pth", "picture": picture, "date": "2026-11-26", "gpu": False}
    return {"outcome": "ran", "seconds": 3.2, "skipped": 0, "source": source}


def test_a_page_says_what_it_was_made_from_and_runs_keep_each_others_pages(course, tmp_path, monkeypatch):
    folder = tmp_path / "build" / "site"
    (folder / "notebooks").mkdir(parents=True)
    picture = tmp_path / "mine <b>.png"
    cv2.imwrite(str(picture), np.zeros((8, 8, 3), np.uint8))
    nbformat.write(notebook("One"), folder / "notebooks" / "01_one.ipynb")  # of another run
    nbformat.write(notebook("Nine"), tmp_path / "09_other.ipynb")
    (folder / "chapters.json").write_text(json.dumps({"01_one": record_of("r50", "<b>theirs</b>.png")}))
    for name, own in (("02_two", {"own_picture": True}), ("03_three", {"brings_model": True})):
        made = notebook(name, code(f"open({str(folder / 'other.json')!r})" if name == "02_two" else "1"))
        made.metadata["course"] = own
        nbformat.write(made, course / f"{name}.ipynb")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COURSE_IMAGE", picture.name)

    other = site.Site(folder, [])

    def meanwhile(chapter, *_):
        """Another process finishes a chapter that this one does not run."""
        theirs = site.Chapter(tmp_path / "09_other.ipynb", "", "", "ran", source=site.Source("r50"))
        other.finish(theirs, notebook("Nine"))
        return replace(chapter, outcome="ran"), notebook("x"), ""

    monkeypatch.setattr(run_course, "execute", meanwhile)
    assert run(course, "--only", "02,03") == 0
    shown = rows(folder)
    assert "model r50, r50.pth, own picture <b>theirs</b>.png, 2026-11-26, no GPU" in shown["One"]
    assert "&lt;b&gt;theirs&lt;/b&gt;" in (folder / "index.html").read_text()
    digits = hashlib.sha256(picture.read_bytes()).hexdigest()[:12]
    assert "model emoji, mask_rcnn_emoji.pth (" in shown["02_two"]
    assert f"own picture mine <b>.png ({digits})" in shown["02_two"]
    assert "own picture" not in shown["03_three"]
    assert "model its own" in shown["03_three"]
    assert ".pth" not in shown["03_three"]
    assert 'href="notebooks/01_one.html"' in (folder / "index.html").read_text()
    assert set(json.loads((folder / "chapters.json").read_text())) == {"01_one", "02_two", "03_three", "09_other"}


def test_relative_paths_are_the_callers(course, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("COURSE_BUILD", "made")
    monkeypatch.setenv("COURSE_IMAGE", "../mine.png")
    monkeypatch.setenv("COURSE_CHECKPOINT", "../mine.pth")
    monkeypatch.setenv("COURSE_NETRON", "live")
    cv2.imwrite(str(tmp_path / "mine.png"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "mine.pth").touch()
    left = tmp_path / "here" / "made" / "emoji" / f"{artifacts.SCRATCH}standard-x.onnx"
    left.parent.mkdir(parents=True)
    left.touch()  # as a killed run leaves it
    loaded = []
    monkeypatch.setattr(run_course, "load_detector", loaded.append)
    asked = run_course.prepare(["--notebooks", str(course)])
    assert asked.site.folder == tmp_path / "here" / "made" / "site"
    assert paths.own_pictures() == [tmp_path / "mine.png"]
    assert os.environ["COURSE_CHECKPOINT"] == str(tmp_path / "mine.pth")
    assert paths.build_root() == tmp_path / "here" / "made"
    assert "COURSE_NETRON" not in os.environ, "a live viewer would be a frame with nothing in it"
    assert loaded == ["emoji"], "a checkpoint that the user named is opened before the first chapter"
    assert list(paths.build_root().rglob(f"{artifacts.SCRATCH}*")) == []


def test_every_path_that_the_environment_names_is_the_callers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [f"COURSE_{name}" for name in ("BUILD", "CHECKPOINT", "CLASSES", "CONFIG", "IMAGE")]
    for name in names:
        monkeypatch.setenv(name, "mine")
    run_course._settle(run_course.parse([]))
    assert {os.environ[name] for name in names} == {str(tmp_path / "mine")}


@pytest.mark.parametrize(("jobs", "threads"), [("1", None), ("2", "4"), ("16", "1")])
def test_kernels_keep_memory_and_share_the_cores_unless_the_caller_says_otherwise(monkeypatch, jobs, threads):
    for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "7")  # so that it is put back
        if name != "MALLOC_TRIM_THRESHOLD_":
            del os.environ[name]
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    run_course._settle(run_course.parse(["--jobs", jobs]))
    assert (os.environ["MALLOC_MMAP_THRESHOLD_"], os.environ["MALLOC_TRIM_THRESHOLD_"]) == (str(4 << 30), "7")
    assert os.environ.get("OMP_NUM_THREADS") == threads


@pytest.mark.parametrize(
    ("cores", "free", "arguments", "jobs"),
    [
        (2, 16e9, [], 2),
        (64, 500e9, [], 2),
        (2, 15e9, [], 1),
        (1, 500e9, [], 1),
        (None, 500e9, [], 1),
        (2, 1e9, ["--jobs", "3"], 3),
    ],
)
def test_two_chapters_at_a_time_where_there_is_room(monkeypatch, cores, free, arguments, jobs):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(run_course, "free_memory", lambda: free)
    assert run_course.parse(arguments).jobs == jobs


@pytest.mark.parametrize(("jobs", "order"), [(1, [1, 2, 3, 4]), (2, [2, 4, 1, 3])])
def test_chapters_that_take_long_begin_first_where_several_run(tmp_path, jobs, order):
    chapters = []
    for number in (1, 2, 3, 4):
        made = notebook(f"Chapter {number}", code("1"))
        made.metadata["course"] = {"long": number % 2 == 0}
        nbformat.write(made, tmp_path / f"0{number}_x.ipynb")
        chapters.append(site.Chapter(tmp_path / f"0{number}_x.ipynb", "", ""))
    assert [int(one.path.name[:2]) for one in run_course.in_order(chapters, jobs)] == order


def test_nothing_runs_beside_a_cell_that_is_to_be_alone(course, tmp_path):
    def cell(name, *tags):
        noted = f"open({str(tmp_path / name)!r}, 'w').write(f'{{began}} {{time.monotonic()}}')"
        return code(f"import time\nbegan = time.monotonic()\ntime.sleep(0.4)\n{noted}", *tags)

    ordinary = [cell(f"beside{number}") for number in range(6)]
    alone = [cell("alone1", "alone"), cell("alone2", "alone"), cell("after"), cell("alone3", "alone")]
    nbformat.write(notebook("One", *ordinary), course / "01_one.ipynb")
    nbformat.write(notebook("Two", *alone), course / "02_two.ipynb")
    assert run(course, "--only", "1,2", "--jobs", "2") == 0
    spans = {path.name: tuple(map(float, path.read_text().split())) for path in tmp_path.iterdir() if path.is_file()}
    assert len(spans) == 10
    beside = {
        (a, b)
        for a in spans
        for b in spans
        if a.startswith("alone") and a != b and spans[a][0] < spans[b][1] and spans[b][0] < spans[a][1]
    }
    assert beside == set()


@pytest.mark.parametrize(
    "text", ["", "[]", "[" * 100000, '{"01_one": []}', '{"01_one": {"outcome": "ran", "seconds": "3"}}', "\udcff"]
)
def test_a_damaged_record_of_a_site_lists_nothing_and_says_so(course, tmp_path, capfd, monkeypatch, text):
    folder = tmp_path / "build" / "site"
    (folder / "notebooks").mkdir(parents=True)
    for kind in ("ipynb", "html"):
        (folder / "notebooks" / f"01_one.{kind}").write_text("of another run")
    (folder / "chapters.json").write_bytes(text.encode(errors="surrogateescape"))
    done = notebook("x")
    monkeypatch.setattr(run_course, "execute", lambda chapter, *_: (replace(chapter, outcome="ran"), done, ""))
    assert run(course, "--only", "02") == 0
    said = capfd.readouterr().err
    assert re.match(
        r"the record .*chapters\.json is damaged \(.*\), so no page is listed: run the chapters again\.", said
    )
    assert len(said.splitlines()) == 1
    assert list(json.loads((folder / "chapters.json").read_text())) == ["02_two"]
    assert "01_one.html" not in (folder / "index.html").read_text()


def test_a_full_disk_while_a_page_is_written_leaves_a_true_index(course, tmp_path, capfd, monkeypatch):
    folder = tmp_path / "build" / "site"
    done = notebook("x")
    monkeypatch.setattr(run_course, "execute", lambda chapter, *_: (replace(chapter, outcome="ran"), done, ""))
    assert run(course) == 0
    write = artifacts.write_bytes

    def full(path, data):
        if path == folder / "notebooks" / "02_two.ipynb":
            raise artifacts._full(path)
        write(path, data)

    monkeypatch.setattr(artifacts, "write_bytes", full)
    assert run(course) == 1
    said = capfd.readouterr().err
    assert "02_two.ipynb failed:\nno disk space left while writing" in said
    assert "Traceback" not in said
    two = reported(tmp_path / "build" / "run")[0]["chapters"][1]
    assert (two["state"], two["failing_cell"]) == ("failed", None)
    assert two["error"].startswith("no disk space left while writing")
    linked = set(re.findall(r'href="(.*?)"', (folder / "index.html").read_text()))
    pages = {f"{kind}/{file.name}" for kind in ("notebooks", "slides") for file in (folder / kind).glob("*.html")}
    assert linked == {f"{kind}/{name}.html" for kind in ("notebooks", "slides") for name in ("01_one", "03_three")}
    assert linked == pages


def test_a_site_that_cannot_be_made_is_a_failed_run_with_a_true_index(course, tmp_path, capfd, monkeypatch):
    def fail(*_):
        raise site.SiteBuildError("the pages could not be made (a reason)", "mend that")

    monkeypatch.setattr(run_course, "execute", lambda one, *_: (replace(one, outcome="ran"), notebook("x"), ""))
    monkeypatch.setattr(site, "sphinx", fail)
    assert run(course, "--only", "02") == 1
    assert "the pages could not be made (a reason): mend that." in capfd.readouterr().err
    assert reported(tmp_path / "build" / "run")[0]["state"] == "failed"
    index = (tmp_path / "build" / "site" / "index.html").read_text()
    assert 'class="ran">ran' in index
    assert "href" not in index


def ended(pid):
    """Whether a process ends, within seconds. What nobody waits for may stay as a zombie."""
    for _ in range(100):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.1)
    return False


def test_a_kernel_that_dies_is_named_with_its_cell(course, tmp_path, capfd):
    child = "import subprocess\nopen({!r}, 'w').write(str(subprocess.Popen(['sleep', '600']).pid))"
    dies = notebook(
        "Dies", code(child.format(str(tmp_path / "child"))), code("\nimport os\nos.kill(os.getpid(), 9)  # <memory>")
    )
    nbformat.write(dies, course / "03_three.ipynb")
    assert run(course, "--only", "03") == 1
    said = capfd.readouterr().err
    assert (
        "03_three lost its kernel in its code cell 2, which begins 'import os': run it alone, with --only 03." in said
    )
    record, cases = reported(tmp_path / "build" / "run")
    assert cases == {"03_three": ["failure"]}
    assert record["chapters"][0]["failing_cell"] == {"number": 2, "begins": "import os"}
    assert record["chapters"][0]["peak_memory_mib"] > 20
    assert "Traceback" not in said
    assert ended(int((tmp_path / "child").read_text())), "what it had started goes with it"


def test_what_a_kernel_says_is_encrypted(course, tmp_path):
    cell = "import ipykernel.connect as c; print('curve_secretkey' in c.get_connection_info(unpack=True))"
    nbformat.write(notebook("Two", code(cell)), course / "02_two.ipynb")
    chapter = site.Chapter(course / "02_two.ipynb", "", "")
    done, ran, trouble = run_course.execute(chapter, tmp_path, run_course.Running())
    assert (done.outcome, trouble) == ("ran", "")
    assert ran.cells[1].outputs[0].text == "True\n"


def test_a_chapter_that_ends_after_an_interrupt_has_not_run(course, tmp_path, monkeypatch, request):
    # A shell starts what it runs in the background with interrupts ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    running = run_course.Running()
    monkeypatch.setattr(run_course.NotebookClient, "execute", lambda _: os.kill(os.getpid(), signal.SIGINT))
    chapter = site.Chapter(course / "01_one.ipynb", "", "")
    with pytest.raises(KeyboardInterrupt), running.interruptible():
        run_course.execute(chapter, tmp_path, running)
    os_signal = signal.getsignal(signal.SIGINT)
    with running.interruptible():
        os.kill(os.getpid(), signal.SIGINT)  # a second one does not disturb the clearing up
        done, _, trouble = run_course.execute(chapter, tmp_path, running)
    assert (done.outcome, trouble) == ("not run", "")
    assert not (tmp_path / "01_one.ipynb").exists()
    assert signal.getsignal(signal.SIGINT) is os_signal


def test_a_failing_chapter_is_named_last_and_not_rendered_and_the_others_run(course, tmp_path, capfd, monkeypatch):
    folder = tmp_path / "build" / "site"
    (folder / "notebooks").mkdir(parents=True)
    for kind in ("ipynb", "html"):
        (folder / "notebooks" / f"03_three.{kind}").write_text("an earlier run")
    assert run(course) == 1
    streams = capfd.readouterr()
    assert streams.err.rstrip().endswith("ValueError: the reason")
    assert "raise ValueError" in streams.err
    assert "03_three.ipynb failed" in streams.err
    assert not list((folder / "notebooks").glob("03_three.*"))
    assert (folder / "notebooks" / "02_two.html").exists()
    index = (folder / "index.html").read_text()
    assert 'class="failed"' in index
    assert "03_three.html" not in index
    record, cases = reported(tmp_path / "build" / "run")
    assert cases == {"01_one": [], "02_two": [], "03_three": ["failure"]}
    one, _, three = record["chapters"]
    assert record["state"] == "failed"
    assert record["machine"]["versions"]["nbclient"]
    assert one["skipped"] == ([] if run_course.gpu_available() else [GPU_CELL])
    assert (one["state"], one["error"], one["failing_cell"], one["notebook"]) == ("ran", None, None, None)
    assert 20 < one["peak_memory_mib"] < 2000
    assert three["failing_cell"] == {"number": 1, "begins": "x = 1"}
    assert three["error"].strip().endswith("ValueError: the reason")
    kept = tmp_path / "build" / "run" / three["notebook"]
    assert nbformat.read(kept, as_version=4).cells[1].outputs[0].evalue == "the reason"
    assert f"{kept} is 03_three.ipynb as far as it came" in streams.err
    monkeypatch.setattr(run_course, "execute", lambda one, *_: (replace(one, outcome="ran"), notebook("x"), ""))
    assert run(course, "--only", "03") == 0
    assert reported(kept.parent)[0]["state"] == "ran"
    assert not kept.exists(), "what an earlier run left is not taken for this one's"


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
        (["--image", "no.jpg"], {}, "no.jpg (No such file or directory): give the path of a readable file"),
        (["--checkpoint", "no.pth"], {}, "there is no checkpoint at"),
        ([], {"COURSE_MODEL": "r101"}, "there is no model named 'r101': use one of: emoji, r50"),
        (["--jobs", "0"], {}, "0 chapters at a time would never end: give --jobs a number from 1 on"),
        (["--jobs=-5"], {}, "-5 chapters at a time"),
        (["--output", __file__], {}, "test_run_course.py cannot be made (File exists): name a folder"),
        ([], {"COURSE_BUILD": __file__}, "cannot be made (Not a directory): name a folder"),
        ([], {"COURSE_IMAGE": __file__}, "is not a picture that can be decoded"),
        ([], {"COURSE_CHECKPOINT": __file__}, "is damaged and was not opened"),
        ([], {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is set"),
    ],
)
def test_bad_input_is_named(monkeypatch, tmp_path, arguments, environment, words):
    # main tells the kernels by these variables; monkeypatch puts them all back.
    usual = {"COURSE_BUILD": str(tmp_path), "COURSE_MODEL": "emoji", "COURSE_CHECKPOINT": "", "COURSE_IMAGE": ""}
    for name, value in (usual | environment).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(CourseError, match=re.escape(words)):
        run_course.main(arguments)
    if environment.get("COURSE_BUILD") != __file__:
        record, cases = reported(tmp_path / "run")
        assert (record["state"], record["chapters"], cases) == ("did not begin", [], {"the whole run": ["error"]})
        assert words in record["error"]


def test_bad_input_is_one_sentence_to_the_user(tmp_path):
    process = script("--only", "17", COURSE_BUILD=str(tmp_path))
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2
    assert said.startswith("there is no chapter 17: choose from")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["--jobs", "many"], ["--model", "r101"], ["--no-such-option"], ["stray"]])
def test_arguments_that_are_none_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        run_course.parse(arguments)
    assert ended.value.code == 2
    assert "usage: run_course.sh" in capsys.readouterr().err


def test_a_report_that_cannot_be_written_is_a_failed_run_with_a_name(course, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(run_course, "execute", lambda one, *_: (replace(one, outcome="ran"), notebook("x"), ""))
    write = evidence.save

    def full(path, record):
        if record["chapters"] and record["chapters"][0]["state"] == "ran":
            raise artifacts._full(path)
        write(path, record)

    monkeypatch.setattr(evidence, "save", full)
    assert run(course, "--only", "01", "--report", str(tmp_path / "report")) == 1
    said = capfd.readouterr().err
    assert "01_one.ipynb failed:\nno disk space left while writing" in said
    assert "Traceback" not in said
    record, cases = reported(tmp_path / "report")
    assert (record["state"], cases) == ("running", {"01_one": ["skipped"], "the whole run": ["error"]})


def test_the_readmes_job_keeps_what_is_compiled_and_what_a_run_says():
    text = (paths.REPO_ROOT / "README.md").read_text()
    (job,) = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL))
    last = job["steps"][-1]
    assert (last["if"], last["with"]["path"].split()) == ("always()", ["build/run", "build/site"])
    assert "./scripts/run_course.sh" in [step.get("run") for step in job["steps"]]
    assert "~/.cache/maskrcnn-course" in [step.get("with", {}).get("path") for step in job["steps"]]


@settings(max_examples=30)
@given(words=st.text(), state=st.sampled_from(["running", "ran", "failed", "interrupted", "did not begin"]))
def test_xml_can_be_read_whatever_a_cell_said(words, state):
    chapter = {"chapter": "01_one", "state": "failed", "seconds": 1.0, "error": words, "skipped": [GPU_CELL]}
    suite = ElementTree.fromstring(
        run_report.junit({"state": state, "error": words, "seconds": 2.0, "chapters": [chapter]})
    )
    kept = "".join(character for character in words if character.isalnum())
    found = suite.find("testcase/failure")
    assert kept in "".join(character for character in (found.text or "") if character.isalnum()) or not words.strip()
    assert bool(suite.findall("testcase/error")) == (state not in ("ran", "failed"))
    assert "code cell 3 was skipped (no GPU)" in suite.find("testcase/system-out").text


def interrupt(process):
    """Ctrl-C, and what the script says and returns then."""
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 1
    assert "interrupted" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("seconds", [0.3, 4], ids=["the kernel is starting", "the cell is running"])
def test_an_interrupt_keeps_finished_pages_whole_and_ends_the_kernel(course, tmp_path, seconds):
    (course / "03_three.ipynb").unlink()
    slow = f"""
import os, subprocess, time
children = [subprocess.Popen(["sleep", "600"], start_new_session=apart) for apart in (False, True)]
pids = [os.getpid(), *(child.pid for child in children)]
open({str(tmp_path / "processes")!r}, "w").write(" ".join(map(str, pids)))
time.sleep(600)
"""
    nbformat.write(notebook("Slow", code(slow)), course / "02_two.ipynb")
    process = script("--notebooks", course, COURSE_BUILD=str(tmp_path / "build"))
    folder = tmp_path / "build" / "site"
    deadline = time.monotonic() + 120
    while not (folder / "notebooks" / "01_one.ipynb").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    while seconds > 1 and not (tmp_path / "processes").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(0.3)
    interrupt(process)
    index = (folder / "index.html").read_text()
    assert 'href="notebooks/01_one.html"' in index
    assert "02_two.html" not in index
    assert "hello" in (folder / "notebooks" / "01_one.html").read_text()
    record, cases = reported(tmp_path / "build" / "run")
    assert (record["state"], [one["state"] for one in record["chapters"]]) == ("interrupted", ["ran", "not run"])
    assert cases == {"01_one": [], "02_two": ["skipped"], "the whole run": ["error"]}
    assert not list(folder.glob(f"{artifacts.SCRATCH}*"))
    # The kernel leads a process group of its own; what it started may have left that too.
    if (noted := tmp_path / "processes").exists():
        assert all(map(ended, map(int, noted.read_text().split())))
    else:
        assert seconds < 1


def test_an_interrupt_ends_a_chapter_that_waits_to_be_alone(course, tmp_path):
    ready = [tmp_path / "busy", tmp_path / "next"]
    busy = code(f"import time\nopen({str(ready[0])!r}, 'w').close()\ntime.sleep(600)")
    nbformat.write(notebook("One", busy), course / "01_one.ipynb")
    after_it = f"import os, time\nwhile not os.path.exists({str(ready[0])!r}):\n    time.sleep(0.1)"
    waiting = (
        code(f"{after_it}\nopen({str(ready[1])!r}, 'w').close()"),
        code(f"open({str(tmp_path / 'alone')!r}, 'w')", "alone"),
    )
    nbformat.write(notebook("Two", *waiting), course / "02_two.ipynb")
    process = script("--notebooks", course, "--only", "1,2", "--jobs", "2", COURSE_BUILD=str(tmp_path / "build"))
    deadline = time.monotonic() + 120
    while not all(file.exists() for file in ready) and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(1)
    interrupt(process)
    record, _ = reported(tmp_path / "build" / "run")
    assert [one["state"] for one in record["chapters"]] == ["not run", "not run"]
    assert not (tmp_path / "alone").exists()


def test_what_a_kernel_started_ends_with_it(tmp_path):
    """A child, one in a session of its own, and one that lost its parent."""
    kernel = """
import os, subprocess, sys, time
children = [subprocess.Popen(["sleep", "600"], start_new_session=apart) for apart in (False, True)]
pids = [child.pid for child in children]
pids.append(int(subprocess.check_output("sleep 600 >/dev/null 2>&1 & echo $!", shell=True)))
os.write(1, (" ".join(map(str, pids)) + "\\n").encode())
time.sleep(600)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", kernel], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    with process:
        started = [int(pid) for pid in process.stdout.readline().split()]
        run_course.kill_all(process.pid)
    assert len(started) == 3
    assert all(map(ended, started))


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
