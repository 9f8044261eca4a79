"""Cutting places out of a graph, and tying pictures to their structure."""

from __future__ import annotations

import itertools
import re
import sys
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

import netron
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from helpers.graph import views as graph_view


def chain(scale: float = 2.0, names: Sequence[str] = "abcdef") -> onnx.ModelProto:
    nodes = [
        helper.make_node("Mul" if i == 2 else "Relu", [names[i], "w"] if i == 2 else [names[i]], [names[i + 1]])
        for i in range(5)
    ]
    value = [helper.make_tensor_value_info(names[i], TensorProto.FLOAT, [1]) for i in (0, 5)]
    weights = [numpy_helper.from_array(np.array([scale], np.float32), "w")]
    return helper.make_model(helper.make_graph(nodes, "chain", value[:1], value[1:], weights))


def test_a_place_holds_the_neighbours_and_its_borders():
    place = graph_view.place(chain(), lambda node: node.op_type == "Mul", hops=1)
    assert [node.output[0] for node in place.graph.node] == ["c", "d", "e"]
    assert [value.name for value in place.graph.input] == ["b"]
    assert [value.name for value in place.graph.output] == ["e"]
    with pytest.raises(graph_view.PlaceError):
        graph_view.place(chain(), lambda node: node.op_type == "Conv")


def test_tensors_of_a_place_are_named_after_their_nodes_where_that_is_unambiguous():
    names = ("/a_output_0", "b", "b_output_0", "d_output_1", "e_output_0", "f")
    model = chain(names=names)
    place = graph_view.place(model, lambda node: node.op_type == "Mul", hops=3)
    assert [value.name for value in place.graph.input] == ["/a"]
    assert [node.output[0] for node in place.graph.node] == ["b", "b_output_0", "d_output_1", "e", "f"]
    assert [node.output[0] for node in model.graph.node] == list(names[1:]), "the graph itself keeps its names"


def test_constants_of_a_place_are_drawn_in_the_nodes_that_read_them():
    """Names that simplifying left, as ``_v_3145``, are then not to be seen; one number is, and weights are not kept."""
    model = chain()
    model.graph.node[2].input[1] = "made"
    made = helper.make_node("Constant", [], ["made"], value=numpy_helper.from_array(np.array([0.7], np.float32)))
    large = helper.make_node("Add", ["d", "large"], ["beside"])
    model.graph.node.insert(0, made)
    model.graph.node.append(large)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((40, 50), np.float32), "large"))
    place = graph_view.place(model, lambda node: node.op_type in ("Mul", "Add"), hops=1)
    assert "Constant" not in [node.op_type for node in place.graph.node]
    assert [value.name for value in place.graph.input] == ["b"]
    assert not {"made", "large"} & {value.name for value in place.graph.output}
    shown = {tensor.name: tensor for tensor in place.graph.initializer}
    assert (list(shown["made"].dims), numpy_helper.to_array(shown["made"]).item()) == ([], np.float32(0.7))
    assert (list(shown["large"].dims), len(shown["large"].raw_data)) == ([40, 50], 0)
    before = graph_view.structure_hash(place)
    shown["made"].CopyFrom(numpy_helper.from_array(np.float32(0.5), "made"))
    assert graph_view.structure_hash(place) != before, "another picture: its number is another one"


def test_the_structure_hash_ignores_weights_and_sees_connections():
    assert graph_view.structure_hash(chain(2.0)) == graph_view.structure_hash(chain(3.0))
    assert graph_view.structure_hash(chain()) != graph_view.structure_hash(chain(names="abcdfe"))


def test_statistics_count_nodes_and_bytes():
    found = graph_view.statistics(chain())
    assert found.nodes == 5
    assert found.operators == {"Relu": 4, "Mul": 1}
    assert found.weight_bytes == 4


def test_without_chromium_only_a_picture_of_the_same_structure_is_shown(monkeypatch, tmp_path):
    monkeypatch.setattr(graph_view, "chromium", lambda: None)
    monkeypatch.setattr(graph_view, "COMMITTED", tmp_path)
    monkeypatch.setenv("COURSE_BUILD", str(tmp_path / "build"))
    model = chain()
    assert "no picture" in graph_view.view(model, "here", "A chain <1>")._repr_html_()
    Image.new("RGB", (1300, 40)).save(tmp_path / f"here-{graph_view.structure_hash(model)}.png")
    shown = graph_view.view(model, "here", "A chain <1>")._repr_html_()
    assert "data:image/png;base64,iVBORw0KGgo" in shown
    assert '<img width="650"' in shown  # drawn with two pixels for each of the page
    assert "committed picture" in shown
    assert "max-width:none" in shown  # readable: not shrunk to the page
    assert "A chain &lt;1&gt;" in shown
    assert "no picture" in graph_view.view(chain(names="abcdfe"), "here", "other")._repr_html_()


@pytest.fixture
def browser(tmp_path, monkeypatch):
    """``browser(text)``: a Chromium that is this Python text; its arguments are in ``arguments``."""

    def install(text):
        program = tmp_path / "chromium"
        note = f"open({str(tmp_path / 'arguments')!r}, 'w').write(' '.join(sys.argv))"
        program.write_text(f"#!{sys.executable}\nimport sys, time\n{note}\n{text}")
        program.chmod(0o755)
        monkeypatch.setattr(graph_view, "chromium", lambda: str(program))
        monkeypatch.setattr(graph_view, "COMMITTED", tmp_path / "committed")
        monkeypatch.setenv("COURSE_BUILD", str(tmp_path / "build"))
        return tmp_path / "arguments"

    return install


def test_a_browser_that_dies_at_once_is_not_waited_for_and_not_called_missing(browser, monkeypatch):
    browser("sys.exit(7)")
    sleeps = itertools.count()

    def sleep(_):
        time.sleep(0.05)
        assert next(sleeps) < 600, "a dead browser is waited for"

    monkeypatch.setattr(graph_view, "time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))
    shown = graph_view.view(chain(), "here", "A chain")._repr_html_()
    assert "headless Chromium made no picture (it ended with status 7), and no committed picture" in shown


ANSWERS = """
import base64, json, os
def answer(method):
    if method == "Target.getTargets":
        return {"targetInfos": [{"type": "tab", "targetId": "x"}, {"type": "page", "targetId": "p"}]}
    if method == "Target.attachToTarget":
        return {"sessionId": "s"}
    if method == "Runtime.evaluate":
        return {"result": {"value": [[10, 20, 30, 40]]}}
    return {"data": base64.b64encode(b"PNG").decode()}
received = b""
while part := os.read(3, 1 << 16):
    received += part
    while b"\\0" in received:
        message, _, received = received.partition(b"\\0")
        asked = json.loads(message)
        assert ("sessionId" in asked) == (not asked["method"].startswith("Target.")), asked
        os.write(4, b'{"method": "an event"}\\0')
        os.write(4, json.dumps({"id": asked["id"], "result": answer(asked["method"])}).encode() + b"\\0")
"""


def test_the_browser_is_spoken_to_as_no_other_process_could(browser, monkeypatch, tmp_path):
    """Over descriptors that it inherits: it listens at no port, and ends when we do."""
    arguments = browser(ANSWERS)
    monkeypatch.setattr(graph_view, "time", SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: None))
    graph_view.render_with_netron(chain(), tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes() == b"PNG"
    assert "--remote-debugging-pipe" in arguments.read_text()
    assert "--remote-debugging-port" not in arguments.read_text()
    assert "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1" in arguments.read_text(), "no other host"


@pytest.fixture
def asked():
    """The address of a proxy for everything that is not on this machine, and the list of what it was asked for."""
    asked = []

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(502)

        do_CONNECT = do_POST = do_GET

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


@pytest.mark.skipif(graph_view.chromium() is None, reason="there is no Chromium")
def test_netron_draws_behind_a_proxy_and_asks_nobody_else(asked, monkeypatch, tmp_path):
    proxy, hosts = asked
    program = tmp_path / "chromium"
    given = f'"${{@:1:$#-1}}" --proxy-server={proxy} "${{@: -1}}user/me/proxy/8888/"'
    program.write_text(f"#!/bin/bash\nexec {graph_view.chromium()} {given}\n")
    program.chmod(0o755)
    monkeypatch.setattr(graph_view, "chromium", lambda: str(program))
    graph_view.render_with_netron(chain(), tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 5000
    # Chromium itself asks its makers for this and that.
    assert [host for host in hosts if "ipinfo" in host or "analytics" in host] == []


def test_the_live_viewer_has_no_notice_before_it_and_says_how_it_is_reached(monkeypatch):
    monkeypatch.setenv("COURSE_NETRON", "/user/me/proxy/{port}/")
    shown = graph_view.view(chain(), "here", 'A "chain"')._repr_html_()
    (port,) = re.findall(r'title="A &quot;chain&quot;" src="/user/me/proxy/(\d+)/"', shown)
    assert f"ssh -L {port}:127.0.0.1:{port}" in shown
    address = f"http://127.0.0.1:{port}/"
    monkeypatch.setenv("COURSE_NETRON", "live")
    assert re.search(r'src="http://127\.0\.0\.1:\d+/"', graph_view.view(chain(), "here", "")._repr_html_())

    def get(name):
        with build_opener(ProxyHandler({})).open(address + name, timeout=10) as answer:
            return answer.read(), answer.headers

    page, headers = get("")
    assert b'<meta name="file" content="place.onnx">' in page
    assert headers["Content-Security-Policy"].startswith("default-src 'self'")
    assert onnx.load_from_string(get("place.onnx")[0]) == chain()
    its_own = (Path(netron.__file__).parent / "browser.js").read_text()
    script = get("any/path/browser.js")[0].decode()
    for call in ("await age();", "await consent();", "await telemetry();"):
        assert call in its_own, "netron has changed: look for what it does first"
        assert call not in script
    for outside in ("../__init__.py/..", "no.js"):
        with pytest.raises(HTTPError):
            get(outside)


def test_a_picture_shows_all_of_the_graph_that_the_window_holds_and_little_else():
    inside = graph_view._around([(100, 200, 150, 220), (300, 90, 320, 110)], (2000, 900))
    assert inside == {"x": 70, "y": 60, "width": 280, "height": 190, "scale": 2.0}
    too_wide = graph_view._around([(-500, 10, -400, 30), (1990, 800, 2300, 1200)], (2000, 900))
    assert too_wide == {"x": 0, "y": 0, "width": 2000, "height": 900, "scale": 1.0}
