"""The page of symptoms quotes what the repository says, and links to what is there."""

import re

from helpers.paths import REPO_ROOT

PAGE = REPO_ROOT / "docs" / "SYMPTOMS.md"


def test_every_quoted_message_occurs_in_a_chapter_a_patch_or_a_helper():
    quoted = re.findall(r"`([^`]+)`", PAGE.read_text())
    assert len(quoted) > 15
    files = [*REPO_ROOT.glob("notebooks/*.ipynb"), *REPO_ROOT.glob("patches/*.py"), *REPO_ROOT.glob("helpers/**/*.py")]
    text = "\n".join(file.read_text() for file in files).replace('\\"', '"')
    assert [words for words in quoted if words not in text and not (REPO_ROOT / words).exists()] == []


def test_every_link_and_every_patch_is_there():
    text = PAGE.read_text()
    links = set(re.findall(r"\]\(([^)#]+)\)", text))
    assert len(links) >= 5
    assert [link for link in links if not (PAGE.parent / link).is_file()] == []
    numbers = {n for words in re.findall(r"patch(?:es)? (\d\d(?: and \d\d)*)", text) for n in words.split(" and ")}
    assert len(numbers) > 12
    assert [n for n in numbers if len(list((REPO_ROOT / "patches").glob(f"p{n}_*.py"))) != 1] == []
