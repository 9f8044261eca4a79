"""What a patch is: named changes to functions of an installed library, in memory only, that can be taken back.

A patch replaces attributes of modules or classes. It keeps the very objects that were there and puts them back, so
after :meth:`Patch.revert` the library holds the same objects as before. Nothing in site-packages is written.
"""

from __future__ import annotations

import difflib
import html
import importlib
import inspect
import linecache
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from helpers.compat import ensure_torchvision
from helpers.errors import CourseError

__all__ = ["Edit", "Patch", "PatchStateError", "PatchTargetError", "Replacement", "side_by_side"]

_MISSING = object()


class PatchStateError(CourseError):
    """A patch is applied twice, reverted while it is not applied, or reverted under a later patch."""


class PatchTargetError(CourseError):
    """What a patch wants to change is not there: another version of the library is installed."""


@dataclass(frozen=True)
class Edit:
    """One change of a function's source text. ``old`` must occur exactly once in it; both are dedented first."""

    old: str
    new: str


@dataclass(frozen=True)
class Replacement:
    """One function that a patch replaces.

    target: ``"package.module:name"`` or ``"package.module:Class.name"``; imported when the patch is first needed.
    new: the replacement, an ordinary function; or
    edits: changes of the original's source, for fixes of a line or two. The edited source is compiled in the
        original's module, so it sees the same names.
    also: other places, written like ``target``, that hold the same function because of ``from ... import``.
    """

    target: str
    new: Callable[..., Any] | None = None
    edits: tuple[Edit, ...] = ()
    also: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.new is None) == (not self.edits):
            raise ValueError(f"{self.target}: give either new or edits")


class Patch:
    """A named fix, with the words that explain it.

    summary: one line, what it changes.
    symptom: the exact error or the wrong result without it.
    cause: why that happens.
    after: patches that must be in force before this one, because its edits change what they made.

    Apply it with :meth:`apply` and take it back with :meth:`revert`, or use it as a context manager, which reverts
    however the block is left.
    """

    def __init__(
        self,
        name: str,
        *,
        summary: str,
        symptom: str,
        cause: str,
        replacements: list[Replacement],
        after: tuple[Patch, ...] = (),
    ) -> None:
        self.name = name.rpartition(".")[2]
        self.summary = summary
        self.symptom = symptom
        self.cause = cause
        self.replacements = tuple(replacements)
        self.builds_on = after
        # (owner, attribute, what its __dict__ held or _MISSING if inherited, what the patch put there)
        self._installed: list[tuple[Any, str, Any, Any]] = []

    def __repr__(self) -> str:
        return f"<patch {self.name}: {self.summary}{' (applied)' if self.applied else ''}>"

    @property
    def applied(self) -> bool:
        """Whether the patch is in force now."""
        return bool(self._installed)

    def apply(self) -> None:
        """Put the replacements in place: all of them, or none if one of them cannot be.

        Raises:
            PatchStateError: it is applied already.
            PatchTargetError: the library has not the function, or its source is not the one that the edits are for.
        """
        if self.applied:
            raise PatchStateError(f"the patch {self.name} is applied already", "revert it before applying it again")
        for needed in self.builds_on:
            if not needed.applied:
                raise PatchStateError(
                    f"the patch {self.name} builds on {needed.name}", f"apply {needed.name} before it"
                )
        planned = []
        for replacement in self.replacements:
            new = self._new_object(replacement)
            for place in (replacement.target, *replacement.also):
                owner, attribute = _locate(place)
                if not hasattr(owner, attribute):
                    raise _no_target(place)
                planned.append((owner, attribute, vars(owner).get(attribute, _MISSING), new))
        for owner, attribute, _, new in planned:
            setattr(owner, attribute, new)
        self._installed = planned

    def revert(self) -> None:
        """Put back the very objects that were there.

        Raises:
            PatchStateError: it is not applied, or a later patch of the same function is still on top of it.
        """
        if not self.applied:
            raise PatchStateError(f"the patch {self.name} is not applied", "apply it before reverting it")
        for owner, attribute, _, new in self._installed:
            if vars(owner).get(attribute, _MISSING) is not new:
                raise PatchStateError(
                    f"{attribute} was changed again after the patch {self.name} was applied",
                    "revert the patches in the reverse order",
                )
        for owner, attribute, old, _ in reversed(self._installed):
            if old is _MISSING:
                delattr(owner, attribute)
            else:
                setattr(owner, attribute, old)
        self._installed = []

    def __enter__(self) -> Patch:
        self.apply()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.revert()

    def sources(self) -> Iterator[tuple[str, str, str]]:
        """(target, source before, source after) of each replacement; the same whether or not it is applied."""
        for replacement in self.replacements:
            before = _source(_pristine(replacement.target))
            for earlier in self.builds_on:
                before = earlier._source_after(replacement.target, before)
            yield replacement.target, before, self._source_after(replacement.target, before)

    def _source_after(self, target: str, before: str) -> str:
        for replacement in self.replacements:
            if replacement.target == target:
                return _source(replacement.new) if replacement.new else _edit(before, replacement)
        return before

    def diff_html(self, context_lines: int = 3) -> str:
        """The functions before and after, side by side, as a self-contained HTML fragment."""
        return "".join(
            side_by_side(before, after, f"before: {target}", f"after: {self.name}", context_lines)
            for target, before, after in self.sources()
        )

    def _repr_html_(self) -> str:
        lines = [
            f"<p><b>{html.escape(self.name)}</b>: {html.escape(self.summary)}</p>",
            f"<p><b>Symptom.</b> {html.escape(self.symptom)}</p>",
            f"<p><b>Cause.</b> {html.escape(self.cause)}</p>",
        ]
        return "".join(lines) + self.diff_html()

    def _new_object(self, replacement: Replacement) -> Any:
        original = _pristine(replacement.target)
        new: Any = replacement.new or self._compile_edited(replacement)
        # So that `_pristine` finds the library's own function under a patch.
        new.__patched_from__ = original
        return new

    def _compile_edited(self, replacement: Replacement) -> Any:
        owner, attribute = _locate(replacement.target)
        current = inspect.getattr_static(owner, attribute)
        source = _edit(_source(current), replacement)
        plain = inspect.unwrap(_pristine(replacement.target))
        file_name = f"<{self.name}: {replacement.target}>"
        names: dict[str, Any] = {}
        # The module's own dictionary as globals: like the original, the edited function must see later changes of it.
        exec(compile(source, file_name, "exec"), sys.modules[plain.__module__].__dict__, names)
        # Tracebacks and inspect.getsource find the text here.
        linecache.cache[file_name] = (len(source), None, source.splitlines(keepends=True), file_name)
        return names[plain.__name__]


def side_by_side(before: str, after: str, before_title: str, after_title: str, context_lines: int = 3) -> str:
    """Two texts side by side, their differences marked, as a self-contained HTML fragment."""
    rows = difflib.HtmlDiff(tabsize=4, wrapcolumn=68).make_table(
        before.splitlines(),
        after.splitlines(),
        html.escape(before_title),
        html.escape(after_title),
        context=True,
        numlines=context_lines,
    )
    # difflib links from change to change by anchors numbered anew at each call; the fragment stands in others' pages,
    # several of them at once, so it has none. Its column groups and nowrap would fight our style.
    rows = re.sub(r' id="[^"]*"| nowrap="nowrap"|<a [^>]*>[^<]*</a>|<colgroup></colgroup>', "", rows)
    return f'<div class="patch-diff"><style>{_DIFF_STYLE}</style>{rows}</div>'


def _pristine(target: str) -> Any:
    """The library's own function, whatever patches are applied to it."""
    owner, attribute = _locate(target)
    found = inspect.getattr_static(owner, attribute, _MISSING)
    if found is _MISSING:
        raise _no_target(target)
    while (older := getattr(found, "__patched_from__", None)) is not None:
        found = older
    return found


def _edit(source: str, replacement: Replacement) -> str:
    for edit in replacement.edits:
        old, new = (textwrap.dedent(text).strip("\n") for text in (edit.old, edit.new))
        source = _substitute(source, old, new, replacement.target)
    return source


def _locate(place: str) -> tuple[Any, str]:
    """The owner (module or class) and the attribute name that ``"package.module:Class.name"`` stands for."""
    module_name, _, path = place.partition(":")
    ensure_torchvision()
    try:
        owner: Any = importlib.import_module(module_name)
        *parents, attribute = path.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
    except (ImportError, AttributeError) as error:
        raise _no_target(place) from error
    return owner, attribute


def _no_target(place: str) -> PatchTargetError:
    return PatchTargetError(
        f"there is no {place} in the installed library", "install the versions that requirements.txt pins"
    )


def _source(function: Any) -> str:
    if isinstance(function, (staticmethod, classmethod)):
        function = function.__func__
    return textwrap.dedent(inspect.getsource(inspect.unwrap(function)))


def _substitute(source: str, old: str, new: str, target: str) -> str:
    """Replace ``old`` by ``new``, both without indentation, at whatever indentation ``old`` has in ``source``."""
    if "\n" not in old and source.count(old) == 1 and "\n" not in new:
        return source.replace(old, new)
    first = old.splitlines()[0]
    matches = []
    for line in {line for line in source.splitlines() if line.strip() == first.strip()}:
        indent = line[: len(line) - len(line.lstrip())]
        wanted = textwrap.indent(old, indent)
        if source.count(wanted) == 1:
            matches.append((wanted, textwrap.indent(new, indent)))
    if len(matches) != 1:
        raise PatchTargetError(
            f"{target} has not the text {first.strip()!r} exactly once",
            "install the versions that requirements.txt pins",
        )
    return source.replace(*matches[0])


_DIFF_STYLE = """
.patch-diff table.diff {table-layout: auto; font-family: monospace; font-size: 11px; border-collapse: collapse;
  width: 100%; color: #1f2328; background: #fff; margin: 0 0 1em 0}
.patch-diff table.diff td, .patch-diff table.diff th {text-align: left; white-space: pre; padding: 0 4px;
  vertical-align: top}
.patch-diff table.diff thead th {background: #eaeef2; padding: 4px; white-space: normal; overflow-wrap: anywhere}
.patch-diff table.diff tbody td {width: 50%}
.patch-diff table.diff tbody td.diff_header {color: #424a53; width: 1%; text-align: right; white-space: nowrap;
  background: #f6f8fa}
.patch-diff .diff_next {display: none}
.patch-diff .diff_add {background: #abf2bc}
.patch-diff .diff_chg {background: #fff1a8}
.patch-diff .diff_sub {background: #ffc1ba}
.patch-diff a {color: inherit; text-decoration: none}
"""
