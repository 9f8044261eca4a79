"""Which settings of a detector the export takes at their word, and which it refuses before any time is spent.

mmdet's inference and its export are two programs: the export reads other keys of the config, reads some under other
names, and ignores the rest without a word. The table beside this module, ``settings.json``, has a row for every key
that inference reads, with the values that the export honours (tested row by row) and, for all others, why not and what
to do. It was made by reading mmdet 2.28.2's and mmcv 1.7.2's RPNHead, StandardRoIHead, CascadeRoIHead, BBoxHead,
multiclass_nms, batched_nms, the coders, the RoI extractors and FCNMaskHead against their ``onnx_export`` twins, and
holds for the patches of :data:`helpers.export.exporter.CORRECT` and :data:`helpers.export.exporter.KINDS`.

A row of the table: ``key`` as a config spells it; ``at``: where a built detector has it (attributes and keys, every
member of a list); ``takes``: ``any``, ``mapping``, ``values``, or a range (``above``, ``at_least``, ``at_most``), by
flavour where that matters; ``required``: whether its absence is refused; ``why`` and ``next_step`` for values that are
refused; ``inference`` false: the key changes nothing in inference; ``exported`` and ``refused``: values that the tests
try.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from helpers.errors import CourseError

if TYPE_CHECKING:
    from mmcv import Config
    from mmdet.models.detectors import BaseDetector

__all__ = [
    "Row",
    "UnsupportedSettingError",
    "Verdict",
    "require_known_type",
    "require_supported",
    "rows",
    "table",
    "verdicts",
]

_FILE = Path(__file__).with_name("settings.json")


class UnsupportedSettingError(CourseError):
    """The export would not compute what inference computes under this setting. Names the key and its value."""


@dataclass(frozen=True)
class Row:
    """A key of the table; see the module's docstring."""

    key: str
    at: str
    takes: Mapping[str, Any]
    why: str = ""
    next_step: str = ""
    required: bool = False
    inference: bool = True
    exported: tuple[Any, ...] = ()
    refused: tuple[Any, ...] = ()
    roi_head: str = ""

    def allowed(self, flavour: str) -> Mapping[str, Any]:
        """What the row takes in that flavour."""
        found: Mapping[str, Any] = self.takes.get(flavour, self.takes)
        return found

    def accepts(self, value: Any, flavour: str) -> bool:
        takes = self.allowed(flavour)
        if "any" in takes:
            return True
        if "mapping" in takes:
            return isinstance(value, Mapping)
        if "values" in takes:
            return any(type(value) is type(one) and value == one for one in takes["values"])
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            return False
        return bool(
            value > takes.get("above", float("-inf"))
            and takes.get("at_least", float("-inf")) <= value <= takes.get("at_most", float("inf"))
        )

    def words(self, flavour: str) -> str:
        """What the row takes, in words."""
        takes = self.allowed(flavour)
        if "any" in takes:
            return "any value"
        if "mapping" in takes:
            return "a dictionary"
        if "values" in takes:
            return ", ".join(str(one) for one in takes["values"]) or "nothing"
        names = {"above": "above", "at_least": "at least", "at_most": "at most"}
        return ", ".join(f"{names[bound]} {takes[bound]}" for bound in names if bound in takes)


@dataclass(frozen=True)
class Verdict:
    """One setting of one detector. verdict: ``"exported"`` or ``"refused"``; sentence: why it is refused and the next
    step, empty if it is exported."""

    key: str
    value: Any
    verdict: str
    sentence: str = ""
    next_step: str = ""


@functools.cache
def table() -> tuple[Row, ...]:
    """Every row of ``settings.json``, in its order."""
    return tuple(
        Row(**{**row, "exported": tuple(row.get("exported", ())), "refused": tuple(row.get("refused", ()))})
        for row in json.loads(_FILE.read_text())
    )


def rows() -> list[dict[str, str]]:
    """The table for a reader, a dictionary a row: key, what either flavour exports, and why the rest is refused."""
    return [
        {
            "key": row.key,
            "exported (standard)": row.words("standard"),
            "exported (mmcv)": row.words("mmcv"),
            "otherwise": row.why or ("changes nothing in inference" if not row.inference else ""),
        }
        for row in table()
    ]


_ABSENT = object()


def values_at(owner: Any, path: str) -> Iterator[Any]:
    """The values at a dotted path of attributes and keys; every member of a list of modules is followed."""
    if isinstance(owner, nn.ModuleList):
        for member in owner:
            yield from values_at(member, path)
        return
    if not path:
        yield owner
        return
    name, _, rest = path.partition(".")
    found = owner.get(name, _ABSENT) if isinstance(owner, Mapping) else getattr(owner, name, _ABSENT)
    if found is not _ABSENT and (found is not None or not rest):
        yield from values_at(found, rest)


def verdicts(detector: BaseDetector | Config, flavour: str = "standard") -> list[Verdict]:
    """A verdict for each setting that the detector has, in the table's order; then those that are not in the table.

    A config is built first. What is in the built detector counts: a setting that was changed in memory is judged as it
    is now.
    """
    built = detector if isinstance(detector, nn.Module) else _built(detector)
    head = type(getattr(built, "roi_head", None)).__name__
    found = []
    for row in table():
        if row.roi_head and row.roi_head != head:
            continue
        values = list(values_at(built, row.at))
        if not values and row.required and _has_owner(built, row.at):
            found.append(Verdict(row.key, None, "refused", f"{row.key} is missing: {row.why}", row.next_step))
        if values:
            bad = [value for value in values if not row.accepts(value, flavour)]
            verdict = "refused" if bad else "exported"
            sentence = f"{row.key} = {_short(bad[0])} is not exported: {row.why}" if bad else ""
            found.append(Verdict(row.key, (bad or values)[0], verdict, sentence, row.next_step))
    return [*found, *_unknown_keys(built), *_foreign_operators(built)]


def require_known_type(config: Config) -> None:
    """Nothing, or :class:`UnsupportedSettingError` about the kind of detector that a config describes (one stage, a
    transformer, ...): before anything is built.
    """
    row = next(row for row in table() if row.key == "model.type")
    kind = config.model.type
    if not row.accepts(kind, "standard"):
        raise UnsupportedSettingError(f"{row.key} = {_short(str(kind))} is not exported: {row.why}", row.next_step)


def require_supported(detector: BaseDetector | Config, flavour: str = "standard") -> None:
    """Nothing, or :class:`UnsupportedSettingError` about the first setting that is refused."""
    refused = [verdict for verdict in verdicts(detector, flavour) if verdict.verdict == "refused"]
    if refused:
        more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
        raise UnsupportedSettingError(refused[0].sentence + more, refused[0].next_step)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."


def _has_owner(built: nn.Module, path: str) -> bool:
    # A detector without a mask head lacks nothing of it.
    if path.endswith("mask_thr_binary") and not getattr(built, "with_mask", False):
        return False
    return any(True for _ in values_at(built, path.split(".")[0]))


def _unknown_keys(built: nn.Module) -> Iterator[Verdict]:
    known = {row.key for row in table()}

    def walk(owner: Any, prefix: str) -> Iterator[Verdict]:
        for name, value in owner.items() if isinstance(owner, Mapping) else ():
            key = f"{prefix}.{name}"
            if isinstance(value, Mapping) and key in known:
                yield from walk(value, key)
            elif key not in known:
                sentence = f"{key} = {_short(value)} is not known to the table of settings"
                yield Verdict(
                    key, value, "refused", sentence, "remove it, or add its row to helpers/export/settings.json"
                )

    for stage, head in (("rpn", "rpn_head"), ("rcnn", "roi_head")):
        for settings in values_at(built, f"{head}.test_cfg"):
            yield from walk(settings, f"test_cfg.{stage}")
    others = {
        key: value for key, value in (getattr(built, "test_cfg", None) or {}).items() if key not in ("rpn", "rcnn")
    }
    yield from walk(others, "test_cfg")


def _foreign_operators(built: nn.Module) -> Iterator[Verdict]:
    """Modules that mmcv exports as operators of its own, which no runtime of the course has."""
    for name, module in built.named_modules():
        # RoI layers have rows of their own.
        if type(module).__module__.startswith("mmcv.ops.") and "roi_layers" not in name:
            kind = type(module).__name__
            sentence = f"{name} is a {kind}, an operator of mmcv that no runtime here has"
            yield Verdict(name, kind, "refused", sentence, "use a model without it")
            return


def _built(config: Config) -> nn.Module:
    from mmdet.models import build_detector

    model = config.get("model", config).copy()
    for part in ("pretrained", "init_cfg"):
        model.pop(part, None)
    # Building draws the weights' first values; the caller's generator must not notice.
    with torch.random.fork_rng(devices=[]):
        built: nn.Module = build_detector(model)
    return built
