"""A page open in headless Chromium, used as a person would: pointer, wheel and keys."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lora_graph.inspect.page import write_page

CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")
SPOT = """
const page = loraGraph, [item, pane] = arguments, canvas = page.panes[pane].canvas.getBoundingClientRect();
const {x, y, w, h} = page.placed, {view} = page, isFrame = page.placed.isFrame(item);
const down = isFrame ? 13 : h[item] / 2;
return [canvas.left + (x[item] + w[item] / 2) * view.k + view.x, canvas.top + (y[item] + down) * view.k + view.y];
"""


def start_driver() -> Any:
    """Chromium at 1280×800 that records its console and its requests; the test is skipped where it is not installed."""
    webdriver = pytest.importorskip("selenium.webdriver")
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    screen = {"width": 1280, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    still = {"features": [{"name": "prefers-reduced-motion", "value": "reduce"}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", still)
    return driver


class OpenPage:
    """The page of some data. Items are numbered as on the page: nodes, then modules."""

    def __init__(self, driver: Any, path: Path, data: Mapping[str, Any]) -> None:
        write_page(path, data)
        self.driver, self.data = driver, data
        for log in ("browser", "performance"):
            driver.get_log(log)
        driver.get(path.as_uri())
        self.run("document.activeElement.blur()")

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def item(self, name: str) -> int:
        """The number of a node by its full name, or of a module by what its box says."""
        strings = self.data["strings"]
        labels = [strings[i] for i in self.data["nodes"]["label"]] + [strings[i] for i in self.data["blocks"]["label"]]
        return labels.index(name)

    def element(self, identity: str) -> Any:
        return self.driver.find_element("id", identity)

    def text(self, identity: str) -> str:
        return str(self.element(identity).text)

    def act(self) -> Any:
        from selenium.webdriver import ActionChains

        return ActionChains(self.driver, duration=0)

    def at(self, name: str, pane: int = 0) -> tuple[int, int]:
        """Where a box is on the screen; of an open module its head."""
        x, y = self.run(SPOT, self.item(name), pane)
        return round(x), round(y)

    def pointer(self, x: int, y: int) -> Any:
        """Actions with the pointer at a place."""
        actions = self.act()
        actions.w3c_actions.pointer_action.move_to_location(x, y)
        return actions

    def click(self, name: str, pane: int = 0) -> None:
        self.pointer(*self.at(name, pane)).click().perform()

    def double_click(self, name: str) -> None:
        self.pointer(*self.at(name)).double_click().perform()

    def press(self, *keys: str) -> None:
        self.act().send_keys(*keys).perform()

    def view(self) -> tuple[float, float, float]:
        """The scale and the place of the sheet."""
        k, x, y = self.run("const {k, x, y} = loraGraph.view; return [k, x, y]")
        return k, x, y

    def selected(self) -> int:
        return int(self.run("return loraGraph.selected"))

    def is_drawn(self, name: str, pane: int = 0) -> bool:
        """Whether there is a box for it, or a frame around what is in it."""
        script = "const [i, p] = arguments; return loraGraph.placed.order.includes(i) && loraGraph.panes[p].shows(i)"
        return bool(self.run(script, self.item(name), pane))

    def boxes(self) -> list[tuple[float, float, float, float]]:
        """Left, top, right and bottom of all boxes, frames left out."""
        script = """
        const {x, y, w, h, order} = loraGraph.placed;
        return order.filter(i => !loraGraph.placed.isFrame(i)).map(i => [x[i], y[i], x[i] + w[i], y[i] + h[i]])"""
        return [tuple(box) for box in self.run(script)]

    def place(self, name: str) -> list[float]:
        """Where a box stands on the sheet."""
        script = "const {x, y} = loraGraph.placed; return [x[arguments[0]], y[arguments[0]]]"
        return list(self.run(script, self.item(name)))

    def set(self, identity: str, value: str) -> None:
        """Give a control a value, as if it had been chosen or typed."""
        script = """
        const [element, value] = [document.getElementById(arguments[0]), arguments[1]];
        element.value = value;
        element.dispatchEvent(new Event(element.tagName === "SELECT" ? "change" : "input"))"""
        self.run(script, identity, value)

    def pixels(self, x: int, y: int, width: int, height: int) -> list[int]:
        """Red, green, blue and opacity of what is drawn there, pixel by pixel."""
        script = """
        loraGraph.paint();
        return [...loraGraph.panes[0].canvas.getContext("2d").getImageData(...arguments).data]"""
        return list(self.run(script, x, y, width, height))

    def mark(self, name: str, pane: int = 0) -> str:
        return str(self.run("return loraGraph.panes[arguments[1]].markOf(arguments[0])", self.item(name), pane))

    def complaints(self) -> list[str]:
        """What the console says, but for its advice to tests that look at pixels."""
        entries = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] != "INFO"]
        return [message for message in entries if "willReadFrequently" not in message]

    def requests(self) -> list[str]:
        """Every address that was asked for since the page was opened."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
