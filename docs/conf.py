"""How Sphinx makes the site. `helpers/site.py` lays out the executed notebooks and these pages, and calls it."""

import base64
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml

project = html_title = "Mask R-CNN from PyTorch to TensorRT"
language = "en"
extensions = ["myst_nb", "sphinx_copybutton"]
exclude_patterns = ["notebooks/student", "notebooks/solutions"]

nb_execution_mode = "off"
nb_merge_streams = True
nb_code_prompt_show = "Show the solution"  # nothing else is folded
nb_code_prompt_hide = "Hide the solution"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["myst.xref_missing"]  # see _unlink

if "slides" in tags:  # noqa: F821 (Sphinx defines it: `-t slides` and `-b revealjs` make the slides)
    extensions = ["myst_nb", "sphinx_revealjs"]  # which brings reveal.js with it: nothing is fetched
    kinds = ("text/html", "image/svg+xml", "image/png", "image/jpeg", "text/markdown", "text/plain")
    nb_mime_priority_overrides = [("revealjs", kind, place) for place, kind in enumerate(kinds)]
    suppress_warnings += ["toc.not_included"]
    # What it brings and no slide uses.
    dist = "revealjs/dist"
    exclude_patterns += [
        "revealjs/css",
        "revealjs/plugin",
        f"{dist}/*.map",
        f"{dist}/*.esm.js",
        f"{dist}/theme/fonts/l*",
    ]
    exclude_patterns += [f"{dist}/theme/[!w]*.css", f"{dist}/theme/white[!.]*.css", "**.eot", "**.ttf"]
    revealjs_style_theme = "white"
    revealjs_static_path = ["_static"]
    revealjs_css_files = ["pygments.css", "slides.css"]
    size = {"width": 1280, "height": 720, "margin": 0.02, "center": False}
    revealjs_script_conf = {**size, "hash": True, "display": "flex", "slideNumber": "c/t", "transition": "none"}

html_theme = "sphinx_book_theme"
html_theme_options = {
    "home_page_in_toc": True,
    "show_toc_level": 2,
    "use_download_button": False,  # each page has its own three
    "use_fullscreen_button": False,
    "footer_content_items": [],
    "navbar_persistent": [],
}
html_static_path = ["_static"]
html_css_files = ["course.css"]
html_copy_source = html_show_copyright = html_use_index = False
html_show_search_summary = False  # it fetches pages, which browsers refuse from file://
html_math_renderer = "mathml"  # browsers draw it themselves; MathJax would come from the network


def _math(as_block: bool) -> Any:
    def visit(translator: Any, node: nodes.Element) -> None:
        try:
            translator.body.append(tex2mathml(node.astext(), as_block=as_block))
        except MathError:
            translator.body.append(f"<code>{translator.encode(node.astext())}</code>")
        raise nodes.SkipNode

    return visit, None


def _unlink(app: Any, page: nodes.document, name: str) -> None:
    """What the site does not have, a chapter that did not run say, is named and not linked."""
    there = {one for node in page.findall(nodes.Element) for one in node.get("ids", [])}
    for link in list(page.findall(nodes.reference)):
        if "refid" in link and link["refid"] not in there:
            link.replace_self(link.children)


_ROOM = 640  # px of a slide's height


def _height(part: nodes.Element) -> float:
    """About how many px high a part of a slide is; slides.css has the sizes of the letters."""
    if "hide_mode" in part:
        return 60
    if isinstance(part, nodes.title):
        return 70
    if isinstance(part, nodes.image) or "<img" in _html(part):
        return 480  # it takes what is left
    code = list(part.findall(nodes.literal_block))
    rows = sum(one.astext().count("<tr") for one in part.findall(nodes.raw))
    text = [one for one in part.findall(nodes.TextElement) if not isinstance(one, (nodes.literal_block, nodes.Inline))]
    prose = sum(37 * (len(one.astext()) // 95 + 1) + 14 for one in text)
    return sum(25 + 28 * len(one.astext().splitlines()) for one in code) + 26 * rows + prose


def _cut(app: Any, page: nodes.document, name: str) -> None:
    """Each code cell with its output gets a slide, with the text before it where there is room, and each figure."""
    from sphinx_revealjs.nodes import revealjs_break

    for section in list(page.findall(nodes.section)):
        own = [part for part in section if not isinstance(part, nodes.section)]
        below = [part for part in section if isinstance(part, nodes.section)]
        slides: list[list[nodes.Node]] = [[]]
        for part in own:
            if "cell" not in part.get("classes", []):
                slides[-1].append(part)
                continue
            figures = []
            if "hide_mode" not in part:  # what is folded stays folded, its figures with it
                figures = [one for one in part.findall() if isinstance(one, nodes.image) or "<img" in _html(one)]
            for figure in figures:
                figure.parent.remove(figure)
            for output in [one for one in part if one.get("nb_element") == "cell_code_output" and not one.children]:
                part.remove(output)
            for code in part.findall(nodes.literal_block):
                widest = max(map(len, code.astext().splitlines()), default=0)
                code["classes"] += ["wide"] * (widest > 88)
            if "hide_mode" in part and not slides[-1] and _fits(slides[-2:-1], part):
                slides[-2].append(part)
                continue
            is_first = isinstance(section.parent, nodes.document) and len(slides) == 1
            if is_first or not _fits(slides[-1:], part):
                slides.append([])
            slides[-1].append(part)
            slides += [*([figure] for figure in figures), []]
        # What a section ends with stands below what it is about.
        if _fits(slides[-2:-1], *slides[-1]):
            slides[-2:] = [slides[-2] + slides[-1]]
        section.clear()
        for number, slide in enumerate(slide for slide in slides if slide):
            section += [revealjs_break(notitle=True)] * (number > 0) + slide
        section += below


def _fits(slides: list[list[nodes.Node]], *more: nodes.Node) -> bool:
    """Whether there is such a slide and it has room for more."""
    return any(sum(map(_height, [*slide, *more])) <= _ROOM for slide in slides)


def _html(node: nodes.Node) -> str:
    return node.astext() if isinstance(node, nodes.raw) else ""


def _setup_slides(app: Any) -> None:
    from sphinx.writers.html5 import HTML5Translator
    from sphinx_revealjs.writers import RevealjsSlideTranslator

    class Translator(RevealjsSlideTranslator):
        """Code is coloured while the slides are made, as on the pages."""

        visit_literal_block = HTML5Translator.visit_literal_block
        depart_literal_block = HTML5Translator.depart_literal_block

    app.set_translator("revealjs", Translator)
    app.connect("doctree-resolved", _cut)


def _icons(app: Any, error: Exception | None) -> None:
    """The theme draws its icons by a script of 1.6 MB, for icons of one's own. Its font has those that it uses itself;
    within the style sheet, since Firefox loads no font from file://."""
    if error is None:
        static = Path(app.outdir) / "_static"
        (static / "scripts/fontawesome.js").write_text("")
        font = "vendor/fontawesome/webfonts/fa-solid-900.woff2"
        styles = static / "styles/pydata-sphinx-theme.css"
        data = base64.b64encode((static / font).read_bytes()).decode()
        styles.write_text(styles.read_text("utf-8").replace(f"../{font}", f"data:font/woff2;base64,{data}"), "utf-8")


def setup(app: Any) -> None:
    app.connect("doctree-resolved", _unlink)
    if "slides" in app.tags:
        _setup_slides(app)
    else:
        app.connect("build-finished", _icons)
    app.add_html_math_renderer("mathml", _math(as_block=False), _math(as_block=True))
