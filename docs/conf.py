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


def setup(app: Any) -> None:
    app.connect("doctree-resolved", _unlink)
    app.add_html_math_renderer("mathml", _math(as_block=False), _math(as_block=True))
