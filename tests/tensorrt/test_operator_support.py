"""The operator tables: whole, each row with its source, and the known differences between the versions in them."""

from __future__ import annotations

import re
from typing import Any, get_args

import matplotlib.pyplot as plt
import onnx
import pytest
from onnx import TensorProto, helper

from helpers.tensorrt import limits
from helpers.tensorrt import operator_support as ops

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+@[\w./-]+")
PLACE = re.compile(r"[\w./-]+\.\w+:(?:[1-9]\d*|[A-Za-z]\w*)")
#: What each rule needs beside its name, and what it may have.
KEYS = {
    "types": (set(), {"inputs", "taken", "refused", "when_not_constant", "together"}),
    "constant": ({"inputs"}, set()),
    "at_most": ({"input", "most", "what"}, set()),
    "boxes": ({"most"}, set()),
    "one_class": (set(), set()),
    "low_threshold": ({"input", "below"}, set()),
    "pictures": ({"most"}, set()),
    "attribute": ({"name", "allowed"}, {"default"}),
    "written": ({"name", "from_opset"}, set()),
    "shape": ({"input", "rank"}, {"last"}),
    "linear_scales": ({"most"}, set()),
}


def _model(*nodes: tuple[str, str]) -> onnx.ModelProto:
    made = [helper.make_node(name, ["x"], [f"y{i}"], domain=domain) for i, (name, domain) in enumerate(nodes)]
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    return helper.make_model(helper.make_graph(made, "g", [value], []))


# --- the data file ----------------------------------------------------------------------------------------------------


def _is_source(text: str) -> bool:
    repository, _, place = text.partition(":")
    return repository in ops._data()["repositories"] and bool(PLACE.fullmatch(place))


def test_the_file_has_its_parts_and_no_others() -> None:
    data = ops._data()
    assert set(data) == {"about", "repositories", "columns", "behaviours", "operators"}
    assert set(data["columns"]) == set(ops.VERSIONS)
    assert all(REPOSITORY.fullmatch(one) for one in data["repositories"].values())
    for read in data["columns"].values():
        keys = {"release", "parser", "library", "opsets", "opsets_source", "seen_as", "importers"}
        assert set(read) == keys
        assert _is_source(read["opsets_source"])
    for one in data["behaviours"]:
        assert set(one) == {"subject", "sources", *ops.VERSIONS}
        assert one["sources"]
        assert all(_is_source(source) for source in one["sources"])


def test_every_row_says_where_it_was_read() -> None:
    for operator, rows in ops._data()["operators"].items():
        assert set(rows) == set(ops.VERSIONS), operator
        for version, found in rows.items():
            _check_row(operator, version, found)


def _check_row(operator: str, version: str, found: dict[str, Any]) -> None:
    place = f"{operator} in {version}"
    assert {"state", "sources"} <= set(found) <= {"state", "note", "conditions", "sources"}, place
    assert found["state"] in set(get_args(ops.State)) - {"unknown"}, place
    assert found["state"] == "built in" or found["note"], place
    assert found["sources"], place
    # The row agrees with the list of the version's importers.
    importers = ops._data()["columns"][version]["importers"].split()
    assert (operator in importers) == (found["state"] != "plugin"), place
    conditions = found.get("conditions", ())
    for source in (*found["sources"], *(rule["source"] for rule in conditions if "source" in rule)):
        assert _is_source(source), (place, source)
    for rule in conditions:
        needed, more = KEYS[rule["rule"]]
        assert needed <= set(rule) - {"rule"} <= needed | more | {"effect", "says", "source"}, (place, rule)
        assert rule.get("effect", "refused") in limits.EFFECTS, (place, rule)
        kinds = (*rule.get("taken", ()), *rule.get("refused", ()))
        assert set(kinds) <= set(TensorProto.DataType.keys()), (place, rule)
        assert rule["rule"] != "types" or len({"taken", "refused"} & set(rule)) == 1, (place, rule)


def test_no_row_rests_on_documentation_alone_and_every_one_is_counted() -> None:
    """How much was read where: the counts that ``sources`` tells. A row of less is added here with its kind."""
    assert ops.kinds() == {
        "8.4": {"8.4, by line": 75},
        "8.6": {"8.6, by line": 75},
        "10": {"10.10, by line": 7, "10.13, by importer": 68},
        "10.16": {"10.16, by importer": 75},
        "11": {"11.0, by importer": 75},
    }
    assert "operators: 7 at 10.10, by line, 68 at 10.13, by importer" in ops.sources()["10"]


def test_a_row_with_documentation_or_a_helper_only_is_counted_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"sources": ["parser-10.15:importerUtils.cpp:unaryHelper", "parser-11.1:docs/operators.md:Exp"]}
    monkeypatch.setitem(ops._data()["operators"], "Exp", {**ops._data()["operators"]["Exp"], "11": row})
    assert ops.kinds()["11"] == {"11.0, by importer": 74, "11.1, documentation": 1}


def test_every_rule_of_the_file_is_judged_and_the_other_way_round() -> None:
    used = {
        rule["rule"]
        for rows in ops._data()["operators"].values()
        for found in rows.values()
        for rule in found.get("conditions", ())
    }
    assert used == set(KEYS) == set(limits.RULES)


# --- what the tables say ----------------------------------------------------------------------------------------------


def test_what_8_4_lacks_and_8_6_has() -> None:
    model = _model(("RoiAlign", ""), ("GridSample", ""), ("NonZero", ""), ("Mod", ""), ("Conv", ""))
    assert ops.gaps(model, "8.4") == {"RoiAlign": 1, "GridSample": 1, "NonZero": 1, "Mod": 1}
    assert ops.gaps(model, "8.6") == {} == ops.gaps(model, "11")


def test_scatter_nd_and_nms_are_imported_by_every_version() -> None:
    """Two of the operators of plugins/ are looked up by none."""
    model = _model(("ScatterND", ""), ("NonMaxSuppression", ""))
    assert all(ops.gaps(model, version) == {} for version in ops.VERSIONS)


def test_the_domain_does_not_matter_only_the_name() -> None:
    model = _model(("MMCVRoiAlign", "mmcv"), ("grid_sampler", "mmcv"), ("MultiLevelRoIAlign", "mmcv"), ("Conv", "mmcv"))
    own = {"MMCVRoiAlign": 1, "grid_sampler": 1, "MultiLevelRoIAlign": 1}
    for version in ops.VERSIONS:
        assert ops.gaps(model, version) == own
        whose = [ops.row("mmcv", name, version).note.split(";")[0] for name in own]
        assert whose == ["mmcv's", "mmcv's", "this course's own"]
        assert "domain" in ops.row("mmcv", "Conv", version).note
    assert ops.row("mmcv", "RoiAlign", "8.4").state == "plugin"


def test_an_importer_whose_conditions_were_not_read_is_called_unknown() -> None:
    (found,) = ops.support(_model(("Einsum", "")))
    assert set(found.states.values()) == {"unknown"}


def test_an_onnx_operator_without_an_importer_is_looked_up_as_a_plugin() -> None:
    (found,) = ops.support(_model(("Det", "")))
    assert set(found.states.values()) == {"plugin"}


def test_attention_first_then_by_count() -> None:
    rows = ops.support(_model(("Relu", ""), ("Conv", ""), ("Conv", ""), ("TopK", "")))
    assert [one.operator for one in rows] == ["TopK", "Conv", "Relu"]
    assert rows[1].nodes == 2


def test_a_row_writes_its_sources_out() -> None:
    found = ops.row("", "TopK", "8.4")
    assert found.sources[0] == "onnx/onnx-tensorrt@release/8.4-GA:builtin_op_importers.cpp:4421"
    assert all(rule["source"].count("@") == 1 for rule in found.conditions)
    assert all(source.count("@") == 1 for one in ops.behaviours() for source in one["sources"])


def test_every_version_names_its_source() -> None:
    assert set(ops.sources()) == set(ops.VERSIONS)
    assert all(read.startswith("TensorRT ") for read in ops.sources().values())


@pytest.mark.parametrize(
    ("release", "name"),
    [
        ("8.4.1.5", "8.4"),
        ("8.6.1", "8.6"),
        ("10.13.0.35", "10"),
        ("10.1.0", "10"),
        ("10.16.1.11", "10.16"),
        ("10", "10"),
        ("11.1", "11"),
    ],
)
def test_a_release_has_a_column(release: str, name: str) -> None:
    assert ops.column(release) == name


@pytest.mark.parametrize("release", ["7.2", "8.5.3", "100.1", "8", ""])
def test_a_version_without_a_table(release: str) -> None:
    with pytest.raises(ops.UnknownVersionError, match=r"8\.4"):
        ops.gaps(_model(("Conv", "")), release)


def test_table_escapes_names_colours_cells_and_shows_sources() -> None:
    text = ops.table_html(ops.support(_model(("<b>", "mmcv"), ("TopK", ""))))
    assert "mmcv::&lt;b&gt;" in text
    assert text.count(ops.COLOURS["plugin"]) == 1
    assert f'colspan="{len(ops.VERSIONS)}"' in text  # the same in every version
    assert "builtin_op_importers.cpp:4421" in text
    assert sum(map(int, re.findall(r'colspan="(\d)"', text))) == 2 * len(ops.VERSIONS)


def test_a_lonely_plugin_among_many_nodes_stays_visible() -> None:
    model = _model(*[("Conv", "")] * 1000, ("grid_sampler", "mmcv"), *[("Conv", "")] * 20)
    figure = ops.graph_figure(model, "title")
    cells = figure.axes[0].images[0].get_array()
    plt.close(figure)
    assert cells is not None
    assert (cells[0] == list(ops.COLOURS).index("plugin")).sum() >= 4
