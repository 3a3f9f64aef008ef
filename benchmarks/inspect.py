"""How long it takes to look at large graphs: to lay out and write a page, to open it, and to diff two graphs.

    python -m benchmarks.inspect [--rounds N]

The graph is a transformer with LoRA beside its projections. Every measurement has a process of its own, and is of
processor time; only a page is timed by the clock, in headless Chromium, where that and selenium are installed, from the
start of navigation until it has loaded and drawn. What the page is beyond its data is measured in bytes after gzip.
"""

from __future__ import annotations

import gzip
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.harness import (
    Contender,
    Report,
    UnavailableError,
    announce,
    parser,
    report,
    require,
    run_worker,
    save,
)
from lora_graph import ops
from lora_graph.inspect.diffing import diff
from lora_graph.inspect.page import embedded, page_html, write_page
from lora_graph.inspect.scene import scene_of
from lora_graph.inspect.scene_data import to_data
from lora_graph.ir import Graph, Value
from lora_graph.ir.graph import Note

WIDTH, HEADS, RANK = 64, 4, 4
NODES_A_LAYER = 89
DRAWN = """
const loaded = performance.getEntriesByType("navigation")[0].loadEventEnd;
const drawn = performance.getEntriesByName("first-contentful-paint")[0];
return window.loraGraph && loaded && drawn ? Math.max(loaded, drawn.startTime) : null;
"""


@dataclass
class Limit:
    """What a measurement is to stay below."""

    worker: str
    what: str
    most: float
    unit: str


LIMITS = (
    Limit("write-10000", "10,000 nodes laid out and written", 3, "s"),
    Limit("open-10000", "that page opened", 1, "s"),
    Limit("write-100000", "100,000 nodes laid out and written, modules closed", 15, "s"),
    Limit("overhead-0", "the page beyond its data, compressed", 80, "kB"),
    Limit("diff-10000", "two graphs of 10,000 nodes compared", 2, "s"),
)


class Network:
    """A transformer of about so many nodes; ``prefix`` begins the names of its parameters."""

    def __init__(self, nodes: int, prefix: str = "", scale: float = 1.0) -> None:
        self.prefix, self.scale = prefix, scale
        self.notes: dict[Value, Note] = {}
        self.adapters: list[str] = []
        self.scope = ""
        x = h = ops.input("x", "float32", ("batch", "time", WIDTH))
        for index in range(max(nodes // NODES_A_LAYER, 1)):
            h = self.layer(h, f"encoder.{index}")
        self.graph = Graph((x,), {"y": h}, self.notes, "transformer")

    def noted(self, value: Value) -> Value:
        self.notes.setdefault(value, Note(scope=self.scope))
        return value

    def weight(self, name: str, *shape: int) -> Value:
        return ops.parameter(f"{self.prefix}{self.scope}.{name}", "float32", shape)

    def layer(self, h: Value, path: str) -> Value:
        self.scope = f"{path}.attention"
        heads = [self.split(self.projection(h, name)) for name in ("query", "key", "value")]
        scores = self.noted(self.noted(heads[0] @ self.noted(heads[1].swapaxes(-1, -2))) * (self.scale / 4))
        mixed = self.noted(self.noted(ops.softmax(scores, axis=-1)) @ heads[2])
        joined = self.noted(self.noted(mixed.swapaxes(1, 2)).reshape("batch", "time", WIDTH))
        mixed = self.projection(joined, "out")
        self.scope = path
        h = self.normalized(self.noted(h + mixed), path, "first")
        self.scope = f"{path}.mlp"
        inner = self.noted(ops.gelu(self.projection(h, "up")))
        narrow = self.projection(inner, "down")
        self.scope = path
        return self.normalized(self.noted(h + narrow), path, "second")

    def split(self, x: Value) -> Value:
        shaped = self.noted(x.reshape("batch", "time", HEADS, WIDTH // HEADS))
        return self.noted(shaped.swapaxes(1, 2))

    def projection(self, x: Value, name: str) -> Value:
        around, self.scope = self.scope, f"{self.scope}.{name}"
        product = self.noted(x @ self.weight("weight", WIDTH, WIDTH))
        down = self.noted(x @ self.weight("lora.A", WIDTH, RANK))
        up = self.noted(self.noted(down @ self.weight("lora.B", RANK, WIDTH)) * 2.0)
        self.adapters += [f"{self.prefix}{self.scope}.lora.{letter}" for letter in "AB"]
        y = self.noted(self.noted(product + up) + self.weight("bias", WIDTH))
        self.scope = around
        return y

    def normalized(self, x: Value, path: str, name: str) -> Value:
        self.scope = f"{path}.{name}"
        return self.noted(ops.layer_normalization(x, self.weight("weight", WIDTH), self.weight("bias", WIDTH)))


def page(nodes: int) -> tuple[str, float, int]:
    """The text of the page of a network, the seconds it took to lay out and write, and its number of nodes."""
    network = Network(nodes)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "page.html")
        started = time.process_time()
        data = to_data(scene_of(network.graph, adapters=network.adapters))
        write_page(path, data)
        return path.read_text(), time.process_time() - started, len(data["nodes"]["op"])


def write(nodes: int) -> Report:
    text, seconds, count = page(nodes)
    return {"value": seconds, "nodes": count, "megabytes": len(text) / 1e6}


def open_page(nodes: int) -> Report:
    """Seconds from the start of navigation until the page has loaded and drawn."""
    from selenium import webdriver

    browser, driver = shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")
    if browser is None or driver is None:
        print(json.dumps({"missing": ["chromium and chromedriver"]}))
        raise SystemExit(0)
    text, _, count = page(nodes)
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,800"):
        options.add_argument(argument)
    with tempfile.TemporaryDirectory() as folder, webdriver.Chrome(options, webdriver.ChromeService(driver)) as chrome:
        path = Path(folder, "page.html")
        path.write_text(text)
        chrome.get("about:blank")
        chrome.get(path.as_uri())
        while (drawn := chrome.execute_script(DRAWN)) is None:
            time.sleep(0.05)
    return {"value": drawn / 1e3, "nodes": count}


def overhead(_: int) -> Report:
    """Kilobytes of the page of a small graph less those of its data."""
    data = to_data(scene_of(Network(1).graph))
    whole, alone = (len(gzip.compress(text.encode(), 9, mtime=0)) for text in (page_html(data), embedded(data)))
    return {"value": (whole - alone) / 1e3}


def compare(nodes: int) -> Report:
    """Two networks with other names, of which one scales its attention otherwise."""
    left, right = Network(nodes).graph, Network(nodes, "other.", 2.0).graph
    started = time.process_time()
    found = diff(left, right)
    seconds = time.process_time() - started
    return {"value": seconds, "nodes": len(left), "matched": len(found.matches), "changed": len(found.changed)}


WORKERS: dict[str, Callable[[int], Report]] = {"write": write, "open": open_page, "overhead": overhead, "diff": compare}


def main() -> None:
    options = parser("inspect", __doc__, rounds=3).parse_args()
    if options.worker:
        kind, nodes = options.worker.split("-")
        contender = Contender(options.worker, ("selenium",) if kind == "open" else ())
        require(contender)
        report(contender, **WORKERS[kind](int(nodes)))
        return
    announce()
    results = []
    for limit in LIMITS:
        try:
            rounds = [run_worker("benchmarks.inspect", Contender(limit.worker), []) for _ in range(options.rounds)]
        except UnavailableError as reason:
            print(f"skipped {limit.what}: {reason}", file=sys.stderr)
            continue
        values = [found["value"] for found in rounds]
        details = {key: value for key, value in rounds[0].items() if key not in ("value", "versions")}
        results.append({"what": limit.what, "unit": limit.unit, "most": limit.most, "values": values, **details})
        said = ", ".join(f"{name} {number:,.3g}" for name, number in details.items())
        print(f"{limit.what:55} {median(values):6.2f} {limit.unit}  (at most {limit.most})  {said}", flush=True)
    save("inspect", rows=results)


if __name__ == "__main__":
    main()
