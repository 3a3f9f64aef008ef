"""The page that shows a graph in a browser: one file that loads nothing and runs nothing but its own script.

``page_html(data)`` puts the data of a scene (``scene_data.to_data``), a style sheet and a script into one HTML text.
Text of the model is data: JSON in which ``<``, ``>`` and ``&`` are escaped, shown as text and never as markup. A
content-security policy forbids everything but this very script and this very style, named by their SHA-256.

Besides the columns of the scene, ``data`` may hold ``kind`` ("diff": the two stages are two models), ``summary``
([label, text] pairs), ``changes`` (a list to jump through: [mark, text, [node, …]] each) and, in a stage,
``facts`` (pairs).
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from lora_graph.files import atomic_write
from lora_graph.version import __version__

SCRIPTS = (
    *("scene", "ops", "fold", "wires", "pane", "ink", "paint", "view", "search", "panel", "legend"),
    *("sheet", "page", "walk", "start"),
)
"""The parts of the script, each after those it needs."""
STYLES = ("theme", "page", "panel")
_ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})


def page_html(data: Mapping[str, Any]) -> str:
    """The page for ``data``, the plain data of a scene. ValueError: a number in it is not finite."""
    script, style = _script(), "".join(_text(f"{name}.css") for name in STYLES)
    policy = (
        f"default-src 'none'; script-src {_source(script)}; style-src {_source(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    title = html.escape("".join(sign if sign.isprintable() else f"\\u{ord(sign):04x}" for sign in str(data["name"])))
    return _text("page.html").format(
        policy=policy, version=__version__, title=title, style=style, data=embedded(data), script=script
    )


def write_page(path: str | os.PathLike[str], data: Mapping[str, Any]) -> None:
    """Write the page for ``data`` to ``path``, whole or not at all. OSError: it cannot be written."""
    content = page_html(data).encode()
    with atomic_write(path) as file:
        file.write(content)


def embedded(data: Mapping[str, Any]) -> str:
    """``data`` as JSON that can stand inside a script element: without ``<``, ``>`` and ``&``, in ASCII alone."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).translate(_ESCAPES)


@cache
def _script() -> str:
    """All parts as one function, so that they share their names with each other and with nothing else."""
    parts = "\n".join(_text(f"{name}.js") for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n{parts}\nwindow.loraGraph = start();\n}})();\n'


@cache
def _text(name: str) -> str:
    return files(__package__).joinpath(name).read_text("utf-8")


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
