"""Records: what a script writes about itself, and what a page refuses to read."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from helpers import evidence, paths


@pytest.mark.parametrize("path", sorted(paths.EVIDENCE.glob("*.json")), ids=lambda path: path.stem)
def test_every_record_of_the_course_is_read(path):
    assert evidence.load(path.stem) == json.loads(path.read_text())


@pytest.mark.parametrize("path", sorted(paths.EVIDENCE.glob("*.json")), ids=lambda path: path.stem)
def test_no_command_of_a_record_names_a_place_on_the_machine_that_made_it(path):
    words = json.loads(path.read_text()).get("command", "").split()
    assert [word for word in words if word.startswith(("/", "~"))] == []


def test_a_new_record_says_where_it_comes_from(tmp_path, monkeypatch):
    monkeypatch.setattr(
        sys, "argv", [str(paths.REPO_ROOT / "scripts" / "x.py"), "--output", "a b.json", str(tmp_path / "y")]
    )
    record = evidence.head("a test", {"gpu": "none"}) | {"rows": [1]}
    assert record["command"] == "python scripts/x.py --output 'a b.json' y"
    assert {"platform", "python", "gpu"} <= set(record["machine"])
    path = evidence.save(tmp_path / "x.json", record)
    assert evidence.load(path, ["rows"]) == record
    del record["command"]
    with pytest.raises(evidence.EvidenceError, match=r"x\.json has no 'command'"):
        evidence.save(path, record)
    assert "command" in evidence.load(path), "the file before it is kept"


def test_the_commit_is_marked_where_files_were_changed(tmp_path):
    def git(*words):
        subprocess.run(["git", "-C", tmp_path, "-c", "user.name=x", "-c", "user.email=x", *words], check=True)

    assert evidence.commit(tmp_path) is None
    git("init", "-q")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-qm", "x")
    clean = evidence.commit(tmp_path)
    assert clean is not None
    assert len(clean) == 40
    (tmp_path / "file").write_text("two")
    assert evidence.commit(tmp_path) == f"{clean} with changes"
    (tmp_path / "file").write_text("one")
    (tmp_path / "notes").write_text("a file that nothing runs")
    assert evidence.commit(tmp_path) == clean
    for folder in ("helpers", "patches", "plugins", "scripts"):
        new = tmp_path / folder / "inner" / "new.py"
        new.parent.mkdir(parents=True)
        new.touch()
        assert evidence.commit(tmp_path) == f"{clean} with changes", folder
        (tmp_path / ".gitignore").write_text(f"{folder}\n")
        assert evidence.commit(tmp_path) == clean, "what is ignored is made"
        new.unlink()
    (tmp_path / "inner").mkdir()
    assert evidence.commit(tmp_path / "inner") is None, "a copy in another repository"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "cannot be read"),
        ('{"what": "x", "date": "2026-1', "cannot be read"),
        ("[]", "is not of type 'object'"),
        ("{}", "is a required property"),
        ('{"what": "x", "date": "yesterday", "rows": [1]}', r"at \$\.date"),
        ('{"what": "", "date": "2026-11-25", "rows": [1]}', r"at \$\.what"),
        ('{"what": "x", "date": "2026-11-25"}', "'rows' is a required property"),
        ('{"what": "x", "date": "2026-11-25", "rows": []}', "should be non-empty"),
        ('{"what": "x", "date": "2026-11-25", "rows": "many"}', r"at \$\.rows"),
    ],
)
def test_a_damaged_or_empty_record_is_one_sentence(text, words, tmp_path):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(evidence.EvidenceError, match=rf"the record x\.json .*{words}"):
        evidence.load(tmp_path / "x.json", ["rows"])
    with pytest.raises(evidence.EvidenceError, match="nowhere.json cannot be read"):
        evidence.load("nowhere")
