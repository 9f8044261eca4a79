"""The patch machinery, on a throw-away module: no mmdet needed."""

from __future__ import annotations

import sys
import types

import pytest

import patches
from patches import Edit, Patch, PatchStateError, PatchTargetError, Replacement

LIBRARY = '''
FACTOR = 2

def double(x):
    """Twice x."""
    y = x * FACTOR
    return y

class Base:
    def inherited(self):
        return "base"

class Thing(Base):
    @staticmethod
    def static(x):
        return x + 1

    def method(self, x):
        if x:
            return double(x)
        return 0
'''


@pytest.fixture
def library(tmp_path, monkeypatch):
    (tmp_path / "toylib.py").write_text(LIBRARY)
    (tmp_path / "toyuser.py").write_text("from toylib import double\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import toylib
    import toyuser

    yield types.SimpleNamespace(lib=toylib, user=toyuser)
    for name in ("toylib", "toyuser"):
        sys.modules.pop(name, None)


def triple(x):
    return 3 * x


def make(*replacements: Replacement, name: str = "p99_toy") -> Patch:
    return Patch(name, summary="triples <x>", symptom="gives 2x", cause="FACTOR is 2", replacements=list(replacements))


def snapshot(library) -> dict[str, object]:
    owners = {"lib": library.lib, "user": library.user, "Base": library.lib.Base, "Thing": library.lib.Thing}
    return {
        f"{owner}.{name}": value
        for owner, thing in owners.items()
        for name, value in vars(thing).items()
        if name not in ("__builtins__", "__dict__", "__weakref__", "__doc__")
    }


def same(before, after) -> bool:
    return before.keys() == after.keys() and all(after[key] is value for key, value in before.items())


ALL_KINDS = (
    Replacement("toylib:double", new=triple, also=("toyuser:double",)),
    Replacement("toylib:Thing.static", edits=(Edit("x + 1", "x + 10"),)),
    Replacement("toylib:Thing.inherited", new=lambda self: "patched"),
)


def test_apply_changes_every_place_and_revert_restores_the_same_objects(library):
    before = snapshot(library)
    patch = make(*ALL_KINDS)
    with patch:
        assert library.lib.double(5) == library.user.double(5) == 15
        assert library.lib.Thing.static(1) == library.lib.Thing().static(1) == 11
        assert library.lib.Thing().inherited() == "patched"
        assert library.lib.Base().inherited() == "base"
        assert patch.applied
    assert not patch.applied
    assert same(before, snapshot(library))


def test_an_exception_inside_the_block_reverts_and_passes_through(library):
    before = snapshot(library)
    with pytest.raises(ZeroDivisionError), make(*ALL_KINDS):
        1 / 0  # noqa: B018
    assert same(before, snapshot(library))


def test_applying_twice_is_an_error_that_says_so_and_changes_nothing(library):
    patch = make(*ALL_KINDS)
    with patch:
        during = snapshot(library)
        with pytest.raises(PatchStateError, match=r"p99_toy is applied already: revert it"):
            patch.apply()
        assert same(during, snapshot(library))


def test_reverting_what_is_not_applied_is_an_error(library):
    with pytest.raises(PatchStateError, match="not applied"):
        make(*ALL_KINDS).revert()


def test_nested_patches_of_one_function_come_off_in_reverse_order_only(library):
    before = snapshot(library)
    inner = make(Replacement("toylib:double", edits=(Edit("x * FACTOR", "x * FACTOR * 10"),)), name="p98_inner")
    outer = make(Replacement("toylib:double", new=triple))
    with inner:
        assert library.lib.double(1) == 20
        with outer:
            assert library.lib.double(1) == 3
            with pytest.raises(PatchStateError, match="reverse order"):
                inner.revert()
            # The pristine function is shown as "before", whatever is applied on top of it.
            assert all("y = x * FACTOR\n" in source for _, source, _ in outer.sources())
        assert library.lib.double(1) == 20
    assert same(before, snapshot(library))


def test_a_patch_that_builds_on_another_edits_what_that_one_made(library):
    before = snapshot(library)
    first = make(Replacement("toylib:double", edits=(Edit("x * FACTOR", "x * FACTOR + 1"),)), name="p97_first")
    second = Patch(
        "p98_second",
        summary="s",
        symptom="s",
        cause="c",
        replacements=[Replacement("toylib:double", edits=(Edit("FACTOR + 1", "FACTOR + 100"),))],
        after=(first,),
    )
    with pytest.raises(PatchStateError, match="apply p97_first before it"):
        second.apply()
    with first, second:
        assert library.lib.double(1) == 102
    assert same(before, snapshot(library))
    ((_, source_before, source_after),) = second.sources()
    assert "FACTOR + 1\n" in source_before
    assert "FACTOR + 100\n" in source_after


def test_a_missing_target_leaves_nothing_applied(library):
    before = snapshot(library)
    patch = make(*ALL_KINDS, Replacement("toylib:Thing.gone", new=triple))
    with pytest.raises(PatchTargetError, match=r"toylib:Thing\.gone"):
        patch.apply()
    assert same(before, snapshot(library))
    with pytest.raises(PatchTargetError, match="no_such_module"):
        make(Replacement("no_such_module:f", new=triple)).apply()


@pytest.mark.parametrize("old", ["x * 7", "x"], ids=["absent", "ambiguous"])
def test_an_edit_that_does_not_fit_the_source_is_refused(library, old):
    with pytest.raises(PatchTargetError, match="exactly once"):
        make(Replacement("toylib:double", edits=(Edit(old, "z"),))).apply()


def test_an_edit_of_several_lines_keeps_the_indentation_and_sees_the_modules_names(library, monkeypatch):
    edit = Edit("if x:\n    return double(x)", "if x is not None:\n    return double(x) + 100")
    with make(Replacement("toylib:Thing.method", edits=(edit,))):
        assert library.lib.Thing().method(1) == 102
        monkeypatch.setattr(library.lib, "FACTOR", 5)
        assert library.lib.Thing().method(1) == 105


def test_the_diff_shows_both_sides_and_escapes_html(library):
    patch = make(*ALL_KINDS)
    with patch:
        applied = patch.diff_html()
    page = patch._repr_html_()
    assert patch.diff_html() == applied
    assert "triples &lt;x&gt;" in page
    assert "diff_add" in page or "diff_chg" in page
    assert "toylib:double" in page
    assert "<a " not in page


def test_unknown_patch_names_the_known_ones():
    with pytest.raises(patches.UnknownPatchError, match="no patch named 'p00_nothing'"):
        patches.load("p00_nothing")


def test_every_listed_patch_loads_and_explains_itself():
    for patch in patches.overview():
        assert patch.summary
        assert "\n" not in patch.summary
        assert patch.symptom
        assert patch.cause
    page = patches.overview()._repr_html_()
    assert all(name in page for name in patches.names())
