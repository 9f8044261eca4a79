"""Cells of a chapter, chosen by tag and by heading, as a notebook that runs by itself: with them come the chapter's
set-up cells and the cells that define, or change, the names which the chosen ones use.
"""

from __future__ import annotations

import ast
import functools
import re
import symtable
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from nbformat.v4 import new_markdown_cell

from helpers import paths
from helpers.errors import CourseError
from helpers.site import chapter_title

__all__ = ["SelectionError", "chapter_file", "extract", "headings", "needed", "tags"]

# What these are given they show and leave as it is.
_SHOW_ONLY = {"print", "display"}


class SelectionError(CourseError):
    """There is no such chapter, tag or heading, or no cell that has both."""


def chapter_file(asked: str) -> Path:
    """The notebook of a chapter, named by its number (``5``, ``05``) or its file's name.

    Raises:
        SelectionError: there is no such chapter; it lists those that there are.
    """
    every = sorted(paths.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    for path in every:
        if asked.zfill(2) == path.name[:2] or Path(asked).name in (path.name, path.stem):
            return path
    raise SelectionError(f"there is no chapter {asked!r}", f"use one of: {', '.join(path.stem for path in every)}")


def tags(notebook: Any) -> list[str]:
    """The tags of a notebook's cells, each once, in order."""
    return list(dict.fromkeys(tag for cell in notebook.cells for tag in cell.metadata.get("tags", [])))


def headings(notebook: Any) -> list[str]:
    """The headings of a notebook's sections (``## ...``), in order."""
    return [found for cell in notebook.cells if (found := _heading(cell))]


def extract(notebook: Any, wanted_tags: Collection[str] = (), wanted_headings: Collection[str] = ()) -> Any:
    """A copy of a chapter with the cells that have one of the tags and stand under one of the headings.

    Where no tag (or no heading) is wanted, any will do. The text before a chosen cell comes along, and so does what it
    needs to run.

    Raises:
        SelectionError: neither is wanted, the chapter has no such tag or heading, or no cell has both; it lists those
            that there are.
    """
    if not wanted_tags and not wanted_headings:
        choice = f"a tag ({'; '.join(tags(notebook))}) or a heading ({'; '.join(headings(notebook))})"
        raise SelectionError("nothing is chosen", f"name {choice}")
    for kind, asked, there in (("tag", wanted_tags, tags(notebook)), ("heading", wanted_headings, headings(notebook))):
        for one in asked:
            if one.lower() not in map(str.lower, there):
                raise SelectionError(f"the chapter has no {kind} {one!r}", f"use one of: {'; '.join(there)}")
    named, under = {one.lower() for one in wanted_tags}, {one.lower() for one in wanted_headings}
    chosen: set[int] = set()
    section, text_before = "", []
    for place, cell in enumerate(notebook.cells):
        section = _heading(cell) or section
        if cell.cell_type != "code":
            text_before.append(place)
            chosen |= {place} if section.lower() in under and not named else set()
            continue
        if (not under or section.lower() in under) and (not named or named & set(cell.metadata.get("tags", []))):
            chosen |= {place, *text_before}
        text_before = []
    if not any(notebook.cells[place].cell_type == "code" for place in chosen):
        raise SelectionError("no cell under these headings has such a tag", "leave out the one or the other")
    kept = sorted(chosen | needed(notebook, chosen))
    asked = "; ".join((*wanted_tags, *wanted_headings))
    text = f"# {chapter_title(notebook, 'A chapter')}\n\nFrom the course: {asked}, with the cells that they need."
    title = new_markdown_cell(text, id="extracted")
    cells = [title, *(notebook.cells[place] for place in kept if place)]
    return nbformat.from_dict({**notebook, "cells": cells})


def needed(notebook: Any, chosen: Collection[int]) -> set[int]:
    """Which cells, by their place in the notebook, must run before those at the places ``chosen``."""
    code = {place: _flow(cell.source) for place, cell in enumerate(notebook.cells) if cell.cell_type == "code"}
    modules = {name for place in code for name in _imported(notebook.cells[place].source)}
    first = next((place for place, cell in enumerate(notebook.cells) if _heading(cell)), len(notebook.cells))
    set_up = {place for place in code if place < first}
    found: set[int] = set()
    todo = [(place, name) for place in {*chosen, *set_up} & code.keys() for name in code[place].uses]
    seen = set(todo)
    while todo:
        user, name = todo.pop()
        for place in reversed([place for place in code if place < user]):
            one = code[place]
            if name not in one.binds | (one.changes - modules):
                continue
            found.add(place)
            # A function looks its names up when it is called, which the user may do.
            more = {(place, used) for used in one.uses} | {(user, used) for used in one.later}
            todo += more - seen
            seen |= more
            if name in one.surely:
                break
    return found | set_up


def _heading(cell: Any) -> str:
    found = re.search(r"^## +(.+)$", cell.source, re.MULTILINE) if cell.cell_type == "markdown" else None
    return found[1].strip() if found else ""


@dataclass(frozen=True)
class _Flow:
    """Of a cell the names that it uses from cells before it, that its functions use when they are called, that it
    binds, that it binds whatever happens, and whose objects it may change."""

    uses: set[str]
    later: set[str]
    binds: set[str]
    surely: set[str]
    changes: set[str]


@functools.cache
def _flow(source: str) -> _Flow:
    flow = _Flow(set(), set(), set(), set(), set())
    body = ast.parse(source).body
    _run(body, flow, flow.surely)
    draws = "plt.show()" in source  # then its calls draw what they are given
    for statement in body:
        flow.changes.update(_changed(statement, draws))
    return flow


def _run(statements: list[ast.stmt], flow: _Flow, bound: set[str]) -> None:
    """Follow statements in order; ``bound`` is what the cell has bound by then for certain, and grows."""
    for statement in statements:
        if isinstance(statement, ast.With):
            for item in statement.items:
                _follow(ast.With([item], [ast.Pass()]), flow, bound)
            _run(statement.body, flow, bound)
        elif isinstance(statement, ast.For):
            inside = set(bound)
            _follow(ast.Expr(statement.iter), flow, inside)
            _follow(ast.For(statement.target, ast.Tuple([], ast.Load()), [ast.Pass()], []), flow, inside)
            _run(statement.body, flow, inside)
            _run(statement.orelse, flow, inside)
        elif isinstance(statement, (ast.If, ast.While)):
            _follow(ast.Expr(statement.test), flow, bound)
            _run(statement.body, flow, set(bound))
            _run(statement.orelse, flow, set(bound))
        elif isinstance(statement, ast.Try):
            inside = set(bound)
            _run(statement.body, flow, inside)
            _run(statement.orelse, flow, inside)
            for handler in statement.handlers:
                caught = [ast.Expr(handler.type)] if handler.type else []
                _run([*caught, *handler.body], flow, bound | {handler.name or ""})
            _run(statement.finalbody, flow, set(bound))
        else:
            _follow(statement, flow, bound)


class _Generators(ast.NodeTransformer):
    """Makes generators of comprehensions, whose variables look like the cell's from Python 3.12 on (PEP 709)."""

    def visit_ListComp(self, node: ast.ListComp | ast.SetComp) -> ast.AST:
        self.generic_visit(node)
        return ast.GeneratorExp(node.elt, node.generators)

    visit_SetComp = visit_ListComp

    def visit_DictComp(self, node: ast.DictComp) -> ast.AST:
        self.generic_visit(node)
        return ast.GeneratorExp(ast.Tuple([node.key, node.value], ast.Load()), node.generators)


def _follow(statement: ast.stmt, flow: _Flow, bound: set[str]) -> None:
    """Note what a statement without blocks that are followed by themselves reads, reads in functions, and binds."""
    text = ast.unparse(ast.fix_missing_locations(statement))
    top = symtable.symtable(ast.unparse(_Generators().visit(ast.parse(text))), "cell", "exec")
    uses = {one.get_name() for one in top.get_symbols() if one.is_referenced()}
    binds = {one.get_name() for one in top.get_symbols() if one.is_assigned() or one.is_imported()}
    if isinstance(statement, ast.AugAssign):
        uses |= {node.id for node in [statement.target] if isinstance(node, ast.Name)}
    later: set[str] = set()
    scopes = list(top.get_children())
    while scopes:
        scope = scopes.pop()
        later |= {one.get_name() for one in scope.get_symbols() if one.is_global() and one.is_referenced()}
        scopes += scope.get_children()
    itself = binds if isinstance(statement, ast.FunctionDef) else set()
    flow.uses.update((uses | later) - bound - itself)
    flow.later.update(later)
    flow.binds.update(binds)
    bound |= binds


def _changed(statement: ast.stmt, draws: bool) -> Iterator[str]:
    """Names of objects that are assigned to (``a.b[0] = ...``), or that a call for its effect is made on or given."""
    for node in ast.walk(statement):
        if isinstance(node, (ast.Attribute, ast.Subscript)) and not isinstance(node.ctx, ast.Load):
            yield _root(node)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            call = node.value
            yield _root(call.func) if isinstance(call.func, ast.Attribute) else ""
            if not draws and _root(call.func) not in _SHOW_ONLY:
                yield from (_root(given) for given in (*call.args, *(one.value for one in call.keywords)))


def _root(node: ast.AST) -> str:
    while not isinstance(node, ast.Name):
        if isinstance(node, ast.Call) and node.args and isinstance(node.func, ast.Name):
            node = node.args[0]  # str(file)
        elif isinstance(node, ast.Call):
            node = node.func
        elif isinstance(node, (ast.Attribute, ast.Subscript, ast.Starred)):
            node = node.value
        else:
            return ""
    return node.id


def _imported(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from ((alias.asname or alias.name).split(".")[0] for alias in node.names)
