"""The site: one small build, its pages read as a browser and a crawler would."""

from __future__ import annotations

import base64
import html
import importlib.util
import itertools
import json
import re
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import cv2
import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from helpers import environment, exercises, paths, site
from helpers.graph.views import chromium
from patches import side_by_side

FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "link": "href"}


def code(source, *tags, outputs=(), **metadata):
    return new_code_cell(source, metadata={"tags": list(tags), **metadata}, outputs=list(outputs), execution_count=1)


def stream(text, name="stdout"):
    return new_output("stream", name=name, text=text)


def shown(**data):
    return new_output("display_data", data={kind.replace("_", "/"): value for kind, value in data.items()})


def png(picture):
    return base64.b64encode(cv2.imencode(".png", picture)[1].tobytes()).decode()


@pytest.fixture(scope="module")
def notebooks():
    """Two executed notebooks, by their names."""
    photograph = cv2.imread(str(next(iter(sorted((paths.DATA / "demo").glob("*.jpg"))))))
    photograph = cv2.resize(photograph, (1800, 1800), interpolation=cv2.INTER_CUBIC)
    drawing = png(photograph[:8, :8])
    above = "a line\n" * 12  # of one digit's contrast axe says nothing
    wide = "x = " + " + ".join(["1000"] * 60)
    steps = ["\rone 0/3", "\rone 3/3", "\n", "\rtwo 0/3", "\rtwo 3/3", "\r       ", "\r"]
    white = np.full((900, 1990, 3), 255, np.uint8)
    graph = f'<figure><img style="max-width:none" alt="A graph" src="data:image/png;base64,{png(white)}">'
    graph += "<figcaption><b>What it is</b><br><small>Where it comes from</small></figcaption></figure>"
    findings = [environment.Finding(name, name, "1.0", "", "") for name in ("ready", "optional", "missing")]
    alt = {"image": {"alt": 'The words of the "author"'}}
    one = [
        new_markdown_cell("# One <1>\n\nThe **goal** of `One`, [two](02_two.ipynb), [three](03_three.ipynb).\n\nMore."),
        new_markdown_cell("## A section\n\nIn $a < b$, a zebrafinch, [RoI](../docs/GLOSSARY.md#roi)\n\n$$x^2$$"),
        code("photograph()", outputs=[shown(image_png=png(photograph))]),
        code("draw()", outputs=[shown(image_png=drawing)], mystnb=alt),
        new_markdown_cell("Sixty lines."),
        code(wide, outputs=[stream(f"{wide}\n" * 60)]),
        code("for _ in tqdm(range(3)): pass", outputs=[stream(step, "stderr") for step in steps]),
        code("silent()", outputs=[stream(step, "stderr") for step in steps[3:]]),
        code(
            "difference()",
            outputs=[shown(text_html=side_by_side(f"{above}{wide}", f"{above}y = 1", "before", "after"))],
        ),
        code("check()", outputs=[shown(text_html=environment.as_html(findings))]),
        new_markdown_cell("A graph, as wide as it was drawn."),
        code("view()", outputs=[shown(text_html=graph), stream("beside it\n")]),
        new_markdown_cell(f"What was seen: `{'a.long.name' * 9}`."),
        new_markdown_cell("## Exercises"),
        code("1 / 0", outputs=[new_output("error", ename="E", evalue="<b>", traceback=["\x1b[31mE\x1b[0m: <b>"])]),
        code("40 + 2  # the way", "solution", outputs=[stream("the answer\n")]),
    ]
    two = [code("print('no heading')", outputs=[stream("a wallcreeper\n")])]
    return {"01_one.ipynb": new_notebook(cells=one), "02_two.ipynb": new_notebook(cells=two)}


@pytest.fixture(scope="module")
def made(tmp_path_factory, notebooks):
    """The folder of a site with both, and a third that failed."""
    folder, asked = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("notebooks")
    chapters = []
    for name, notebook in {**notebooks, "03_three.ipynb": new_notebook()}.items():
        nbformat.write(notebook, asked / name)
        chapters.append(site.Chapter(asked / name, site.chapter_title(notebook, name), site.chapter_goal(notebook)))
    made = site.Site(folder, chapters)
    for chapter in chapters:
        made.begin(chapter)
        ran = chapter.path.name in notebooks
        done = replace(chapter, outcome="ran" if ran else "failed", source=site.Source("emoji", date="2026-11-26"))
        made.finish(done, notebooks.get(chapter.path.name))
    made.build()
    return folder


class Page(HTMLParser):
    """What the tests ask of a page: its elements, as (name, attributes), and its identifiers."""

    def __init__(self, path):
        super().__init__()
        self.path, self.text = path, path.read_text()
        self.elements = []
        self.feed(self.text)
        self.ids = {attributes["id"] for _, attributes in self.elements if attributes.get("id")}

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def all(self, *tags):
        return [attributes for tag, attributes in self.elements if tag in tags]


@pytest.fixture(scope="module")
def slides(made):
    return {path.relative_to(made).as_posix(): Page(path) for path in sorted((made / "slides").glob("*.html"))}


@pytest.fixture(scope="module")
def pages(made):
    found = {path.relative_to(made).as_posix(): Page(path) for path in sorted(made.rglob("*.html"))}
    return {name: page for name, page in found.items() if not name.startswith(("_static", "slides"))}


def test_every_chapter_that_ran_and_every_document_has_a_page_and_is_in_each_ones_contents(made, pages):
    documents = {f"docs/{path.stem}.html" for path in (paths.REPO_ROOT / "docs").glob("*.md")}
    chapters = {"notebooks/01_one.html", "notebooks/02_two.html"}
    assert {"index.html", "search.html", *chapters, *documents} <= set(pages)
    assert "notebooks/03_three.html" not in pages
    for name, page in pages.items():
        linked = {(page.path.parent / a["href"]).resolve() for a in page.all("a") if a["href"].endswith(".html")}
        linked |= {page.path} if any(a["href"] == "#" for a in page.all("a")) else set()  # the contents' link to itself
        assert {made / one for one in chapters | documents} <= linked, name
    index = pages["index.html"].text
    assert "The goal of One, two, three." in index
    assert 'class="failed">failed' in index
    assert "model emoji, 2026-11-26, no GPU" in index
    assert re.search(r'<a href="slides/01_one.html" aria-label="One &lt;1&gt;, slides">slides</a>', index)
    assert re.search(r'data-exercises="01">\d of 3</td>', index)
    assert not (made / ".building").exists()
    assert not (made / "jupyter_execute").exists()  # MyST-NB makes it beside its pages


def test_nothing_is_fetched_from_elsewhere_and_no_link_inside_is_dead(made, pages, slides):
    assert set(slides) == {"slides/01_one.html", "slides/02_two.html"}
    pages, seen = pages | slides, 0
    for name, page in pages.items():
        for tag, kind in FETCHED.items():
            for address in (one.get(kind, "") for one in page.all(tag) if one.get("rel") != "canonical"):
                assert not urlsplit(address).netloc, f"{name} fetches {address}"
        assert not re.search(r"(?:\bimport\b|url)\s*\(?\s*[\"']?https?:", page.text), name
        for attributes in page.all("a", "img", "script", "link"):
            address = urlsplit(attributes.get("href") or attributes.get("src") or "")
            if address.scheme or address.netloc:
                continue
            target = (page.path.parent / unquote(address.path)).resolve() if address.path else page.path
            assert target.is_file(), f"{name} links {address.path}"
            if address.fragment and target.suffix == ".html":
                there = pages[target.relative_to(made).as_posix()]
                assert unquote(address.fragment) in there.ids, f"{name} links {address.path}#{address.fragment}"
            seen += 1
    assert seen > 100
    assert not (made / "slides" / "_images").exists(), "they show the pages' figures"
    assert '"../docs/GLOSSARY.html#roi"' in pages["notebooks/01_one.html"].text, "a word leads to its entry"
    for style in made.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", style.read_text()), style.name


def test_what_every_page_loads_is_light_and_has_its_icons(made, pages):
    page = pages["notebooks/01_one.html"]
    addresses = [one["src"] for one in page.all("script") if "src" in one]
    addresses += [one["href"] for one in page.all("link") if one.get("rel") == "stylesheet"]
    files = {(page.path.parent / urlsplit(address).path).resolve() for address in addresses}
    assert 400_000 < sum(file.stat().st_size for file in files) < 1_000_000
    font = re.search(
        r"url\(data:font/woff2;base64,(\w{16})", (made / "_static/styles/pydata-sphinx-theme.css").read_text()
    )
    assert base64.b64decode(font[1]).startswith(b"wOF2")


def test_a_page_can_be_read_without_eyes(pages):
    for name, page in pages.items():
        assert page.all("html")[0]["lang"] == "en"
        assert re.search(r"<title>[^<]*\w[^<]*</title>", page.text), name
        assert any(one.get("name") == "viewport" for one in page.all("meta")), name
        assert all(image.get("alt") for image in page.all("img")), name
        # Before the article the theme has the heading once more, for paper.
        begins = next((place for place, (tag, _) in enumerate(page.elements) if tag == "article"), 0)
        levels = [int(tag[1]) for tag, _ in page.elements[begins:] if re.fullmatch("h[1-6]", tag)]
        assert levels.count(1) == 1, name
        assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), (name, levels)
    alts = [image["alt"] for image in pages["notebooks/01_one.html"].all("img")]
    assert alts == ["Figure: A section", 'The words of the "author"', "A graph"]


def test_the_search_finds_words_of_text_and_has_no_need_of_a_server(made, pages):
    index = json.loads(re.fullmatch(r"Search\.setIndex\((.*)\)", (made / "searchindex.js").read_text())[1])
    assert index["docnames"][index["terms"]["zebrafinch"]] == "notebooks/01_one"
    assert any("searchindex.js" in script.get("src", "") for script in pages["search.html"].all("script"))
    assert "SHOW_SEARCH_SUMMARY: false" in (made / "_static" / "documentation_options.js").read_text()


def test_a_chapter_can_be_had_as_it_ran_to_be_solved_and_with_its_solutions(made, pages, notebooks):
    there = pages["notebooks/01_one.html"].all("a")
    assert "../slides/01_one.html" in [one["href"] for one in there]
    links = [one["href"] for one in there if "download" in one]
    ran, student, solutions = (nbformat.read(made / "notebooks" / link, as_version=4) for link in links)
    assert ran.cells[2].outputs[0].data["image/png"] == notebooks["01_one.ipynb"].cells[2].outputs[0].data["image/png"]
    assert [len(one.cells) for one in (ran, student, solutions)] == [16, 15, 16]
    assert "the way" not in nbformat.writes(student)
    assert "the way" in nbformat.writes(solutions)


def test_photographs_are_light_and_drawings_exact(made, pages, notebooks):
    page = pages["notebooks/01_one.html"]
    photograph, drawing = (page.path.parent / image["src"] for image in page.all("img")[:2])
    given = [base64.b64decode(cell.outputs[0].data["image/png"]) for cell in notebooks["01_one.ipynb"].cells[2:4]]
    assert len(given[0]) > 3e6
    assert photograph.stat().st_size + len(page.text) < 3e6
    assert drawing.read_bytes() == given[1]
    before, after = cv2.imdecode(np.frombuffer(given[0], np.uint8), 1), cv2.imread(str(photograph))
    assert after.shape == before.shape
    assert cv2.PSNR(before, after) > 35


def test_what_a_page_shows_of_cells(pages):
    text = pages["notebooks/01_one.html"].text
    (folded,) = re.findall(r"<details.*?</details>", text, re.DOTALL)
    assert "Show the solution" in folded
    assert "the way" in folded
    assert "the answer" in folded
    assert text.count("<math") == 2
    assert "MathJax" not in text
    assert "one 3/3" in text
    assert not [left for left in ("one 0/3", "two 0/3", "two 3/3") if left in text]
    assert text.count("output stderr") == 1
    assert "copybutton.js" in text
    assert "theme-switch" in text
    assert "&lt;b&gt;" in text
    assert "\x1b" not in text
    assert "a wallcreeper" in pages["notebooks/02_two.html"].text


def test_a_build_that_fails_says_why_and_leaves_what_was_there(made, monkeypatch):
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    sphinx = site.sphinx
    monkeypatch.setattr(site, "sphinx", lambda source, _: sphinx(source, source / "index.md"))
    with pytest.raises(site.SiteBuildError, match=r"^the pages could not be made \(.*index\.md.*\): mend that and"):
        site.Site(made, []).build()
    assert before == {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}


LOOK = """<!doctype html><title>-</title><body><script>
(async () => {
  const seen = {};
  for (const [name, theme] of PAGES) {
    const frame = Object.assign(document.createElement("iframe"), {src: name, width: 390, height: 800});
    document.body.append(frame);
    await new Promise(resolve => frame.onload = resolve);
    const view = frame.contentWindow, root = frame.contentDocument.documentElement;
    root.dataset.theme = root.dataset.mode = theme;
    view.eval(SOURCE);
    const all = selector => [...frame.contentDocument.querySelectorAll(selector)];
    const found = await view.axe.run({resultTypes: ["violations"]});
    seen[name + " " + theme] = {
      width: root.scrollWidth,
      found: found.violations.filter(one => ["serious", "critical"].includes(one.impact))
        .map(one => one.id + ": " + one.nodes.map(node => node.html.slice(0, 200)).slice(0, 3).join(" | ")),
      fetched: view.performance.getEntriesByType("resource").map(one => one.name)
        .filter(one => !/^(file|data):/.test(one)),
      wrapped: all(".patch-diff td").filter(one => one.clientHeight > 25).length,
      stuck: all("pre, .cell_output .output").filter(one => one.scrollWidth > one.clientWidth + 1
        && !["auto", "scroll"].includes(view.getComputedStyle(one).overflowX)).map(one => one.outerHTML.slice(0, 200)),
      results: all("#search-results li").length,
      solved: all("[data-exercises='03']").map(one => one.textContent),
    };
    frame.remove();
  }
  document.body.innerHTML = "";
  document.body.textContent = JSON.stringify(seen);
})();
</script>"""


def look(made, tmp_path, script):
    """What a script finds, which is run in a page of the site's folder by a browser without network."""
    (made / "look.html").write_text(script)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom"]
    options += [f"--user-data-dir={tmp_path}", "--virtual-time-budget=60000", "--host-resolver-rules=MAP * ~NOTFOUND"]
    command = [chromium(), *options, (made / "look.html").as_uri()]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    finally:
        (made / "look.html").unlink()
    return json.loads(html.unescape(re.search(r"<body>([\[{].*[\]}])</body>", said, re.DOTALL)[1]))


@pytest.mark.skipif(chromium() is None, reason="there is no Chromium")
def test_in_a_browser_at_390_pixels_nothing_is_cut_off_or_in_the_way(made, tmp_path, monkeypatch):
    """axe-core finds nothing serious; what is wider scrolls by itself, diffs wrap as difflib did and not again;
    search works from a file's address."""
    (axe,) = importlib.util.find_spec("axe_playwright_python").submodule_search_locations
    source = (Path(axe) / "axe.min.js").read_text()
    chapter, search = "notebooks/01_one.html", "search.html?q=zebrafinch"
    looked = [("index.html", "light"), (chapter, "light"), (chapter, "dark"), (search, "dark")]
    page = LOOK.replace("PAGES", json.dumps(looked))
    page = page.replace("SOURCE", json.dumps(source).replace("</", "<\\/"))
    monkeypatch.setattr(exercises, "solved", lambda: ("03/2",))  # after the site was built
    (made / "solved.js").write_text(exercises.progress_script())
    seen = look(made, tmp_path, page)
    assert len(seen) == len(looked)
    for name, one in seen.items():
        assert one["found"] == [], name
        assert one["fetched"] == [], name
        assert one["width"] <= 390, name
        assert one["wrapped"] == 0, name
        assert one["stuck"] == [], name
        assert one["results"] == ("q=" in name), name
        assert one["solved"] == (["1 of 2"] if "index" in name else []), name


TURN = """<!doctype html><title>-</title><body><script>
(async () => {
  const frame = Object.assign(document.createElement("iframe"), {src: "slides/01_one.html", width: 1280, height: 720});
  document.body.append(frame);
  await new Promise(resolve => frame.onload = resolve);
  const view = frame.contentWindow, reveal = view.eval("Reveal"), seen = [];
  const isOut = one => {
    const box = one.getBoundingClientRect();
    return box.left < 0 || box.top < 0 || box.right > 1280 || box.bottom > 720 || !box.width || !box.height;
  };
  for (const slide of reveal.getSlides()) {
    const {h, v} = reveal.getIndices(slide);
    reveal.slide(h, v);
    await new Promise(resolve => setTimeout(resolve, 50));
    const all = selector => [...slide.querySelectorAll(selector)];
    seen.push({
      holds: all("h1, h2, .cell, img").map(one => one.className.split(" ")[0] || one.localName),
      out: [slide, ...all(".cell_input, .cell_output, img, h1, h2")]
        .filter(one => !one.closest("details") && isOut(one)).map(one => one.outerHTML.slice(0, 200)),
      words: slide.textContent.replace(/\\s+/g, " ").trim().slice(0, 60),
      cut: slide.scrollHeight > slide.clientHeight + 1 ? slide.scrollHeight : 0,
      stuck: all("pre, .cell_input, .cell_output").filter(one => (one.scrollWidth > one.clientWidth + 1
        || one.scrollHeight > one.clientHeight + 1) && view.getComputedStyle(one).overflow != "auto")
        .map(one => one.outerHTML.slice(0, 200)),
      fetched: view.performance.getEntriesByType("resource").map(one => one.name)
        .filter(one => !/^(file|data):/.test(one)),
    });
  }
  document.body.innerHTML = "";
  document.body.textContent = JSON.stringify(seen);
})();
</script>"""


@pytest.mark.skipif(chromium() is None, reason="there is no Chromium")
def test_headings_cells_and_figures_have_slides_of_their_own_which_fit_the_screen(made, tmp_path):
    seen = look(made, tmp_path, TURN)
    headed, cell, figure = ["h2", "cell"], ["cell"], ["img"]
    cells = [headed, figure, cell, figure, [], cell, cell, cell, cell, cell, cell, figure]
    assert [one["holds"] for one in seen] == [["h1"], *cells, ["h2", "cell", "cell"]]
    other = look(made, tmp_path, TURN.replace("01_one", "02_two"))
    assert [one["holds"] for one in other] == [["h1"], ["cell"]], "the title is by itself"
    assert seen[11]["words"] == "A graph, as wide as it was drawn. view() beside it"
    assert "fromWhat was seen: a.long.name" in seen[12]["words"]
    for one in seen:
        assert one["out"] == one["stuck"] == one["fetched"] == []
        assert one["cut"] == 0, one["words"]
    text = (made / "slides" / "01_one.html").read_text()
    assert 'alt="The words of the &quot;author&quot;"' in text
    assert "<math" in text
    assert "\x1b" not in text
