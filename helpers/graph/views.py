"""Looking at a graph: its statistics, and netron on the interesting places.

netron draws a whole graph; thousands of nodes are of no use in a page. So a place is cut out as a small graph of its
own, which netron then shows: live in JupyterLab, as a picture elsewhere. The picture is made by headless Chromium where
that is installed; otherwise one that is committed beside the notebooks is used, if it was made from a place of the same
structure (operators, attributes, connections and constants that are one number; weights do not count).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import html
import json
import mimetypes
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import onnx
import onnx.numpy_helper

from helpers import artifacts, paths
from helpers.errors import CourseError
from helpers.graph.index import GraphIndex

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "PlaceError",
    "Statistics",
    "View",
    "chromium",
    "place",
    "render_with_netron",
    "statistics",
    "statistics_figure",
    "structure_hash",
    "view",
]

#: Pictures for machines without Chromium, named by place and structure.
COMMITTED = paths.NOTEBOOKS / "netron"


class PlaceError(CourseError):
    """The graph has no such node, or netron could not draw the place."""


@dataclass(frozen=True)
class Statistics:
    """nodes: how many. operators: how many of each type, by falling number. weight_bytes: size of all constants."""

    nodes: int
    operators: dict[str, int]
    weight_bytes: int


def statistics(model: onnx.ModelProto) -> Statistics:
    """Count a graph's nodes by operator, and the bytes of its constants."""
    count = Counter(node.op_type for node in model.graph.node)
    size = sum(
        int(np.prod(t.dims, dtype=np.int64)) * onnx.helper.tensor_dtype_to_np_dtype(t.data_type).itemsize
        for t in model.graph.initializer
    )
    return Statistics(len(model.graph.node), dict(count.most_common()), size)


def statistics_figure(graphs: dict[str, onnx.ModelProto], most: int = 24) -> Figure:
    """Bars of the commonest operators of several graphs side by side."""
    found = {name: statistics(model) for name, model in graphs.items()}
    total: Counter[str] = Counter()
    for one in found.values():
        total.update(one.operators)
    operators = [name for name, _ in total.most_common(most)]
    figure, axis = plt.subplots(figsize=(14, 4), layout="constrained")
    width = 0.8 / len(found)
    for i, (name, one) in enumerate(found.items()):
        heights = [one.operators.get(operator, 0) for operator in operators]
        axis.bar(np.arange(len(operators)) + i * width, heights, width, label=f"{name}: {one.nodes} nodes")
    axis.set_xticks(np.arange(len(operators)) + 0.4 - width / 2, operators, rotation=60, ha="right")
    axis.set(ylabel="nodes", title="Nodes by operator")
    axis.legend()
    return figure


def place(model: onnx.ModelProto, centre: Callable[[onnx.NodeProto], bool], hops: int = 2) -> onnx.ModelProto:
    """The nodes for which ``centre`` holds and those up to ``hops`` edges away, as a graph of its own.

    Tensors that come from outside become inputs. Constants, Constant nodes too, become initializers, which netron draws
    inside the node that reads them, one of one element by its value; of large ones only the shape is kept. A tensor
    that torch named after its node, ``Reshape_24_output_0``, is called ``Reshape_24``: enough, and half as wide.

    Raises:
        PlaceError: ``centre`` holds for no node.
    """
    index = GraphIndex(model)
    chosen = [node for node in index.nodes if centre(node)]
    if not chosen:
        raise PlaceError("the graph has no node of that description", "look at the node names of the graph")
    for _ in range(hops):
        made, read = _made(chosen), _read(chosen)
        near = made | read
        chosen = [node for node in index.nodes if near.intersection(node.output) or made & {*index.reads(node)}]
    chosen = [node for node in chosen if node.op_type != "Constant"] or chosen
    made, read = _made(chosen), _read(chosen)
    leaving = [n for node in chosen for n in node.output if n and not _all_within(index.readers(n), made)]
    part = onnx.ModelProto(ir_version=model.ir_version)
    part.opset_import.extend(model.opset_import)
    part.graph.name = "place"
    part.graph.node.extend(chosen)
    constants = {name: value for name in sorted(read - made) if (value := index.constant(name)) is not None}
    part.graph.initializer.extend(_shown(name, value) for name, value in constants.items())
    part.graph.input.extend(onnx.ValueInfoProto(name=name) for name in sorted(read - made - constants.keys()))
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in leaving)
    return _briefly(part)


def _briefly(part: onnx.ModelProto) -> onnx.ModelProto:
    """The place with its tensors named after their nodes, but for names that would fall together."""
    names = _made(part.graph.node) | _read(part.graph.node)
    brief = {name: short for name in names if (short := name.removesuffix("_output_0")) not in names}
    for node in part.graph.node:
        node.input[:] = [brief.get(name, name) for name in node.input]
        node.output[:] = [brief.get(name, name) for name in node.output]
    for value in (*part.graph.input, *part.graph.output, *part.graph.initializer):
        value.name = brief.get(value.name, value.name)
    return part


def _shown(name: str, value: npt.NDArray[Any]) -> onnx.TensorProto:
    """A constant as a place has it."""
    if value.size > 1000:
        kind = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
        return onnx.TensorProto(name=name, dims=value.shape, data_type=kind)
    # netron writes the value of a scalar, and of everything else the shape.
    return onnx.numpy_helper.from_array(value.reshape(()) if value.size == 1 else value, name)


def _made(nodes: Sequence[onnx.NodeProto]) -> set[str]:
    return {name for node in nodes for name in node.output if name}


def _read(nodes: Sequence[onnx.NodeProto]) -> set[str]:
    return {name for node in nodes for name in GraphIndex.reads(node)}


def _all_within(readers: Sequence[onnx.NodeProto], made: set[str]) -> bool:
    return bool(readers) and all(made.intersection(reader.output) for reader in readers)


def structure_hash(model: onnx.ModelProto) -> str:
    """Eight hexadecimal digits of what a drawing of the graph shows: names, operators, attributes, connections, the
    shapes of constants, and the values of scalars."""
    digest = hashlib.sha256()
    for tensor in model.graph.initializer:
        digest.update(repr((tensor.name, [*tensor.dims])).encode())
        if not tensor.dims:
            digest.update(repr(onnx.numpy_helper.to_array(tensor).item()).encode())
    for node in model.graph.node:
        attributes = sorted(
            (a.name, str(onnx.helper.get_attribute_value(a)))
            for a in node.attribute
            if a.type not in (onnx.AttributeProto.TENSOR, onnx.AttributeProto.GRAPH)
        )
        digest.update(repr((node.op_type, node.domain, list(node.input), list(node.output), attributes)).encode())
    return digest.hexdigest()[:8]


def chromium() -> str | None:
    """The path of an installed Chromium or Chrome, if there is one."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


def render_with_netron(
    model: onnx.ModelProto, picture: Path, *, size: tuple[int, int] = (2000, 900), seconds: float = 60
) -> None:
    """Let netron draw a graph in headless Chromium and save as much of it as the window holds as PNG, whole or not at
    all. ``size``: the window's width and height in CSS px; the picture has up to twice as many.

    Raises:
        PlaceError: Chromium is not installed or made no picture in time.
    """
    browser = chromium()
    if browser is None:
        raise PlaceError("Chromium is not installed", "install it, or use the committed pictures")
    server = _netron(model)
    with tempfile.TemporaryDirectory() as folder, artifacts.whole_file(picture) as temporary:
        command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--user-data-dir={folder}/profile", f"--window-size={size[0]},{size[1]}"]
        # Nothing but this machine, whatever the page asks for.
        command += ["--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"]
        # A port would be open to every process on this machine; a pipe is not, and the browser ends when it closes.
        command += ["--remote-debugging-pipe", _address(server)]
        ours, theirs = socket.socketpair()
        # Chromium reads from its descriptor 3 and writes to 4.
        shell = ["/bin/sh", "-c", 'exec "$@" 3<&0 4>&0 </dev/null', "sh", *command]
        with theirs:
            running = subprocess.Popen(
                shell, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        try:
            temporary.write_bytes(_screenshot(ours, size, seconds))
        except (OSError, ValueError, KeyError) as error:
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(2 if isinstance(error, ConnectionError) else 0)
            reason = f"it ended with status {running.returncode}" if running.returncode is not None else str(error)
            raise PlaceError(f"headless Chromium made no picture ({reason})", "use the committed pictures") from error
        finally:
            ours.close()
            running.terminate()
            running.wait()
            server.shutdown()
            server.server_close()


def _screenshot(tools: socket.socket, size: tuple[int, int], seconds: float) -> bytes:
    """The graph on the page of a running Chromium as PNG, once netron has drawn it. tools: the other end of what the
    browser speaks the Chrome DevTools Protocol over, messages of JSON that end with a zero byte.

    Chromium's own ``--screenshot`` does not wait for netron's layout, which is done in a worker.
    """
    deadline = time.monotonic() + seconds
    tools.settimeout(seconds)
    received = b""
    page: dict[str, str] = {}

    def call(method: str, **parameters: Any) -> dict[str, Any]:
        nonlocal received
        tools.sendall(json.dumps({"id": 1, "method": method, "params": parameters, **page}).encode() + b"\0")
        while True:
            while b"\0" not in received:
                if not (part := tools.recv(1 << 16)):
                    raise ConnectionError("it closed the connection")
                received += part
            message, _, received = received.partition(b"\0")
            if (answer := json.loads(message)).get("id") == 1:
                return dict(answer["result"])

    def wait(ready: Callable[[], list[Any]]) -> list[Any]:
        while not (found := ready()):
            if time.monotonic() > deadline:
                raise ValueError("netron drew nothing in time")
            time.sleep(0.2)
        return found

    nodes = "[...document.querySelectorAll('#canvas g.node, #target g.node')]"
    corners = f"{nodes}.map(n => n.getBoundingClientRect()).map(r => [r.left, r.top, r.right, r.bottom])"

    def boxes() -> list[list[float]]:
        answer = call("Runtime.evaluate", expression=corners, returnByValue=True)
        return answer["result"].get("value") or []

    first = wait(lambda: [one for one in call("Target.getTargets")["targetInfos"] if one["type"] == "page"])[0]
    page["sessionId"] = call("Target.attachToTarget", targetId=first["targetId"], flatten=True)["sessionId"]
    wait(boxes)
    time.sleep(1)
    clip = _around(boxes(), size)
    return base64.b64decode(call("Page.captureScreenshot", format="png", clip=clip)["data"])


def _around(boxes: Sequence[Sequence[float]], size: tuple[int, int]) -> dict[str, float]:
    """The part of a window that holds the boxes (left, top, right, bottom), as the protocol describes it."""
    margin = 30
    left, top = (max(min(box[i] for box in boxes) - margin, 0) for i in (0, 1))
    right, bottom = (min(max(box[i + 2] for box in boxes) + margin, size[i]) for i in (0, 1))
    width, height = right - left, bottom - top
    return {"x": left, "y": top, "width": width, "height": height, "scale": min(2.0, size[0] / width)}


#: What netron's page does before it shows anything: it shows nothing at all when it is half a year old, asks an address
#: elsewhere for the country and the reader for cookies, and reports the visit to its makers.
_FIRST = ("await age();", "await consent();", "await telemetry();")
_ONLY_THIS_SERVER = "default-src 'self' data: blob:; style-src 'self' 'unsafe-inline'"


def _netron(model: onnx.ModelProto) -> ThreadingHTTPServer:
    """A server, for this machine alone, of netron's page with a graph in it. Unlike netron's own it leaves out what the
    page does first (:data:`_FIRST`), lets it speak to nobody else, and takes any path before a name (of a proxy).
    """
    import netron

    pages, graph = Path(netron.__file__).parent, model.SerializeToString()

    def content(name: str) -> bytes:
        if name == "place.onnx":
            return graph
        data = (pages / name).read_bytes()
        if name == "index.html":
            return data.replace(b"<title>", b'<meta name="file" content="place.onnx"><title>', 1)
        if name == "browser.js":
            for call in _FIRST:
                data = data.replace(call.encode(), b"")
        # Chinese angle brackets stand around a shape; without a font that has them, boxes are drawn.
        return data.replace(rb"\u3008", b"[").replace(rb"\u3009", b"]")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = urlsplit(self.path).path.rpartition("/")[2] or "index.html"
            try:
                body = content(name)
            except (OSError, ValueError):
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Type", mimetypes.guess_type(name)[0] or "application/octet-stream")
            self.send_header("Content-Security-Policy", _ONLY_THIS_SERVER)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def _address(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}/"


@dataclass(frozen=True)
class View:
    """What a notebook cell shows of a place: HTML that needs nothing from the network."""

    content: str

    def _repr_html_(self) -> str:
        return self.content


def view(model: onnx.ModelProto, name: str, caption: str) -> View:
    """netron on a place: the live viewer where ``COURSE_NETRON`` is ``live`` or, with ``{port}`` in it, the address at
    which the reader's browser reaches a port of this machine; else a picture of it.

    Where Chromium is installed the picture is made, in ``build/netron``; elsewhere it is
    ``notebooks/netron/<name>-<structure>.png``. ``caption`` says what to see; where the picture comes from is added.

    Raises:
        PlaceError: never; without any picture the place is listed in words.
    """
    wanted = os.environ.get("COURSE_NETRON", "")
    if wanted == "live" or "{port}" in wanted:
        return _live(model, caption, wanted)
    file = f"{name}-{structure_hash(model)}.png"
    made = paths.build_root() / "netron" / file
    missing = "no Chromium here"
    if chromium() is not None and not made.exists():
        # A browser that does not start (a sandbox without /dev/shm, say) must not stop a chapter.
        try:
            render_with_netron(model, made)
        except PlaceError as error:
            missing = error.problem
    if made.exists():
        source, picture = "drawn by netron on this machine, in headless Chromium", made
    elif (COMMITTED / file).exists():
        source, picture = (
            f"a committed picture of netron; the graph's structure is the same ({missing})",
            (COMMITTED / file),
        )
    else:
        names = Counter(node.op_type for node in model.graph.node)
        listed = ", ".join(f"{count} {operator}" for operator, count in names.most_common())
        text = f"no picture: {missing}, and no committed picture has this structure ({listed})"
        return View(f"<p><b>{html.escape(caption)}</b><br><small>{html.escape(text)}</small></p>")
    content = picture.read_bytes()
    data = base64.b64encode(content).decode()
    # A picture has twice the pixels of netron's window; the width stands in a PNG's header.
    width = int.from_bytes(content[16:20], "big") // 2
    return View(
        # As large as in netron: shrunk to a narrow page, names could not be read. What is wider is scrolled.
        f'<figure style="margin:0"><div style="overflow-x:auto" tabindex="0"><img width="{width}" '
        f'style="max-width:none" alt="{html.escape(caption)}" src="data:image/png;base64,{data}"></div>'
        f"<figcaption><b>{html.escape(caption)}</b><br><small>{html.escape(source)}</small></figcaption></figure>"
    )


def _live(model: onnx.ModelProto, caption: str, wanted: str) -> View:
    server = _netron(model)
    port = str(server.server_port)
    address = _address(server) if wanted == "live" else wanted.replace("{port}", port)
    empty = (
        f"netron, at {address}. Is the frame empty, because Jupyter runs on another machine? Forward its port "
        f"(ssh -L {port}:127.0.0.1:{port} MACHINE), or start Jupyter, with jupyter-server-proxy installed, under "
        "COURSE_NETRON=/proxy/{port}/ (in a hub with the path of your server before it)."
    )
    frame = f'<iframe title="{html.escape(caption)}" src="{html.escape(address)}" width="100%" height="700"></iframe>'
    return View(f"{frame}<p><b>{html.escape(caption)}</b><br><small>{html.escape(empty)}</small></p>")
