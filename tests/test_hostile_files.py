"""Files that come from outside (pictures, records, plans, graphs), damaged in any way: each is read, or refused by the
documented error, and nothing else happens.
"""

from __future__ import annotations

import json
import re

import cv2
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from helpers import evidence, exercises, paths, site
from helpers.detector.preprocess import ImageError, read_picture
from helpers.graph.file import OnnxFileError, load_onnx
from helpers.half_precision import plan

SEED = 20261126
EXAMPLES = 2500  # of each of four kinds


def _pictures():
    noise = np.random.default_rng(0).integers(0, 2**16, (9, 7, 3), np.uint16)
    for suffix in (".png", ".jpg", ".bmp", ".tiff", ".webp", ".ppm"):
        yield cv2.imencode(suffix, (noise >> 8).astype(np.uint8))[1].tobytes()
    yield cv2.imencode(".png", noise)[1].tobytes()


def _graph(elsewhere="../../etc/passwd"):
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 2]) for name in "xy"]
    weight = onnx.numpy_helper.from_array(np.ones((2, 2), np.float32), "w")
    outside = onnx.TensorProto(name="v", data_type=1, dims=[2], data_location=onnx.TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value=elsewhere)
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"], doc_string="head.fc\nmmdet/x.py:1 f")
    for weights in ([weight], [weight, outside]):
        graph = onnx.helper.make_graph([node], "g", value[:1], value[1:], weights)
        yield onnx.helper.make_model(graph).SerializeToString()


def damaged(originals):
    """One of the originals with bytes changed, taken out, put in and repeated; or any bytes."""

    def edit(original, edits, end):
        data = bytearray(original)
        for place, value, kind in edits:
            place %= len(data) + 1
            if kind == "set":
                data[place : place + 1] = bytes([value])
            elif kind == "cut":
                del data[place : place + value % 16]
            else:
                data[place:place] = data[max(0, place - value) : place] if kind == "repeat" else bytes([value])
        return bytes(data[: end % (len(data) + 1)] if end is not None else data)

    edits = st.tuples(st.integers(0, 4000), st.integers(0, 255), st.sampled_from(["set", "cut", "repeat", "insert"]))
    ends = st.none() | st.integers(0, 4000)
    return st.builds(edit, st.sampled_from(list(originals)), st.lists(edits, max_size=6), ends) | st.binary(max_size=64)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


def spoiled(record):
    """A record in which one entry, anywhere in it, is replaced by any value or gone; as JSON in bytes, or damaged."""

    def places(value, way=()):
        yield way
        inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, one in inner:
            yield from places(one, (*way, key))

    def spoil(way, value, gone):
        copy = json.loads(json.dumps({"": record}))
        place, key = copy, ""
        for step in way:
            place, key = place[key], step
        place[key] = value
        if gone and way:
            del place[key]
        return json.dumps(copy[""]).encode()

    whole = st.builds(spoil, st.sampled_from(list(places(record))), VALUES, st.booleans())
    return whole | damaged([json.dumps(record).encode(), b"[" * 50_000])


RECORD = {"what": "a test", "date": "2026-11-26", "commit": None, "command": "x", "rows": [{"a": 1}]}
ENTRY = {"outcome": "ran", "seconds": 1.5, "skipped": 0, "source": {"model": "emoji", "checkpoint": "x"}}
ENTRY["source"] |= {"picture": "", "date": "2026-11-26", "gpu": False}
PLAN = {"nodes": [{"name": "/Add_60", "operator": "Add", "reason": "overflows"}, {"name": "/Mul"}]}


def one_sentence(error):
    assert len(str(error).splitlines()) == 1


def pictures(folder, data):
    (folder / "p").write_bytes(data)
    try:
        picture = read_picture(folder / "p")
        assert picture.ndim == 3
        assert picture.dtype == np.uint8
    except ImageError as error:
        one_sentence(error)


def graphs(folder, data):
    (folder / "g.onnx").write_bytes(data)
    try:
        assert load_onnx(folder / "g.onnx").graph.node
    except OnnxFileError as error:
        one_sentence(error)


def records(folder, data):
    (folder / "r.json").write_bytes(data)
    (folder / "chapters.json").write_bytes(data)
    try:
        assert evidence.load(folder / "r.json", ["rows"])["rows"]
    except evidence.EvidenceError as error:
        one_sentence(error)
    listed = site.Site(folder, [site.Chapter(paths.NOTEBOOKS / "01_one.ipynb", "One", "")])
    try:
        site.index_table(listed._listed(listed.records()), [])
    except site.SiteRecordError as error:
        one_sentence(error)


def plans(folder, data):
    (folder / "p.json").write_bytes(data)
    try:
        assert all(map(str, plan.load(folder / "p.json").nodes))
    except plan.PlanError as error:
        one_sentence(error)


KINDS = {
    "pictures": (pictures, damaged(_pictures())),
    "graphs": (graphs, damaged(_graph())),
    "records": (records, spoiled(RECORD) | spoiled({"01_one": ENTRY})),
    "plans": (plans, spoiled(PLAN)),
}


def read_all(folder, kind, examples):
    read, data = KINDS[kind]

    @seed(SEED)
    @settings(max_examples=examples, database=None, suppress_health_check=list(HealthCheck))
    @given(data=data)
    def test(data):
        read(folder, data)

    test()


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_read_or_refused_in_one_sentence(kind, tmp_path):
    read_all(tmp_path, kind, 40)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_damaged_files(kind, tmp_path):
    read_all(tmp_path, kind, EXAMPLES)


@pytest.mark.parametrize("way", ["../weights", "absolute", "link"])
def test_a_graph_does_not_reach_out_of_its_folder(way, tmp_path):
    (tmp_path / "weights").write_bytes(b"12345678")
    folder = tmp_path / "inside"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "weights")
    (folder / "weights").write_bytes(b"12345678")
    _, own = _graph("weights")
    (folder / "g.onnx").write_bytes(own)
    assert load_onnx(folder / "g.onnx").graph.initializer[1].raw_data == b"12345678"
    _, model = _graph(str(tmp_path / "weights") if way == "absolute" else way)
    (folder / "g.onnx").write_bytes(model)
    with pytest.raises(OnnxFileError, match="is truncated or not an ONNX file"):
        load_onnx(folder / "g.onnx")


def test_the_learners_own_record_is_read_whatever_it_holds(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_BUILD", str(tmp_path))
    for text in ("", "{}", "[1, null]", "[" * 50_000, '"x"', "\udcff"):
        (tmp_path / "exercises.json").write_bytes(text.encode(errors="surrogateescape"))
        assert exercises.solved() == ()


def test_the_security_page_names_tests_that_there_are():
    """Each in the file that is named before it."""
    sources = {path.name: path.read_text() for path in (paths.REPO_ROOT / "tests").rglob("test_*.py")}
    file, named = "", set()
    for name in re.findall(r"`(test_\w+(?:\.py)?)`", (paths.REPO_ROOT / "docs" / "SECURITY.md").read_text()):
        file, test = (name, "") if name.endswith(".py") else (file, name)
        assert f"def {test}(" in sources[file] or not test, name
        named.add(test)
    assert len(named) > 20
