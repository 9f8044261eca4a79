"""How Sphinx makes the site. `helpers/site.py` lays out the executed notebooks and these pages, and calls it."""

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
    revealjs_style_theme = "white"
    revealjs_static_path = ["_static"]
    revealjs_css_files = ["pygments.css", "slides.css"]
    size = {"width": 1280, "height": 720, "margin": 0.02, "center": False}
    revealjs_script_conf = {**size, "hash": True, "slideNumber": "c/t", "transition": "none"}

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


def _cut(app: Any, page: nodes.document, name: str) -> None:
    """Each code cell with its output, each figure and the text before them get a slide of their own."""
    from sphinx_revealjs.nodes import revealjs_break

    for section in list(page.findall(nodes.section)):
        own = [part for part in section if not isinstance(part, nodes.section)]
        below = [part for part in section if isinstance(part, nodes.section)]
        slides: list[list[nodes.Node]] = [[]]
        for part in own:
            if "cell" not in part.get("classes", []):
                slides[-1].append(part)
                continue
            # What is folded stays folded, its figures with it.
            figures = [] if "hide_mode" in part else list(part.findall(nodes.image))
            for figure in figures:
                figure.parent.remove(figure)
            for output in [one for one in part if one.get("nb_element") == "cell_code_output" and not one.children]:
                part.remove(output)
            slides += [[part], *([figure] for figure in figures), []]
        section.clear()
        for number, slide in enumerate(slide for slide in slides if slide):
            section += [revealjs_break(notitle=True)] * (number > 0) + slide
        section += below


def _setup_slides(app: Any) -> None:
    from sphinx.writers.html5 import HTML5Translator
    from sphinx_revealjs.writers import RevealjsSlideTranslator

    class Translator(RevealjsSlideTranslator):
        """Code is coloured while the slides are made, as on the pages."""

        visit_literal_block = HTML5Translator.visit_literal_block
        depart_literal_block = HTML5Translator.depart_literal_block

    app.set_translator("revealjs", Translator)
    app.connect("doctree-resolved", _cut)


def setup(app: Any) -> None:
    app.connect("doctree-resolved", _unlink)
    if "slides" in app.tags:
        _setup_slides(app)
    app.add_html_math_renderer("mathml", _math(as_block=False), _math(as_block=True))
