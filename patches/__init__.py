"""The course's fixes to mmdet and mmcv, one module each, numbered in the order in which the course meets them.

A patch module is named ``pNN_what_it_does`` and holds ``PATCH``, a :class:`patches._base.Patch`, and its ``apply`` and
``revert``. 01 to 19 make the static export work and agree, 20 to 29 the dynamic batch, 30 to 39 half precision, 40
to 49 what is deployed, 50 to 59 kinds of model that the course's own are not.

    import patches

    patches.overview()                       # a table of all of them
    with patches.applied("p01_...", "p02_..."):
        ...                                  # in force here only
"""

from __future__ import annotations

import contextlib
import html
import importlib
import pkgutil
import re
from collections.abc import Iterator

from helpers.errors import CourseError
from patches._base import Edit, Patch, PatchStateError, PatchTargetError, Replacement, side_by_side

__all__ = [
    "Edit",
    "Overview",
    "Patch",
    "PatchStateError",
    "PatchTargetError",
    "Replacement",
    "UnknownPatchError",
    "applied",
    "load",
    "names",
    "overview",
    "side_by_side",
]


class UnknownPatchError(CourseError):
    """There is no patch of that name."""


def names() -> tuple[str, ...]:
    """The names of all patches, in the order of their numbers."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(name for name in found if re.fullmatch(r"p\d\d_\w+", name)))


def load(name: str) -> Patch:
    """The patch of that name; its number alone (``"p05"``) is enough.

    Raises:
        UnknownPatchError: there is none.
    """
    matches = [known for known in names() if name in (known, known.split("_")[0])]
    if not matches:
        raise UnknownPatchError(f"there is no patch named {name!r}", f"use one of: {', '.join(names())}")
    patch = importlib.import_module(f"patches.{matches[0]}").PATCH
    assert isinstance(patch, Patch)
    return patch


@contextlib.contextmanager
def applied(*wanted: str) -> Iterator[tuple[Patch, ...]]:
    """Apply several patches in the order given; revert them in the reverse order, however the block is left.

    Raises:
        UnknownPatchError, PatchStateError, PatchTargetError: nothing is left applied.
    """
    with contextlib.ExitStack() as stack:
        yield tuple(stack.enter_context(load(name)) for name in wanted)


class Overview(tuple[Patch, ...]):
    """All patches; a notebook shows it as a table."""

    def _repr_html_(self) -> str:
        head = "<tr><th>patch</th><th>what it changes</th><th>without it</th></tr>"
        rows = "".join(
            f"<tr><td><code>{html.escape(patch.name)}</code></td><td>{html.escape(patch.summary)}</td>"
            f"<td>{html.escape(patch.symptom)}</td></tr>"
            for patch in self
        )
        return f"<table>{head}{rows}</table>"


def overview() -> Overview:
    """Every patch there is, in order."""
    return Overview(load(name) for name in names())
