"""Models as pictures."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping

from lora_graph import checks
from lora_graph.files import atomic_write
from lora_graph.inspect.cost import Cost, Costs, details, metrics
from lora_graph.inspect.diffing.report import DiffReport
from lora_graph.inspect.inspected import Inspected, Model
from lora_graph.inspect.layout import Layout, lay_out
from lora_graph.inspect.page.diff import diff_scene
from lora_graph.inspect.page.profile import TIME, profile_scene
from lora_graph.inspect.profile_report import ProfileReport
from lora_graph.inspect.scene import Scene, scene_of
from lora_graph.inspect.svg import boxes_at, side_by_side, svg
from lora_graph.ir.value import Value
from lora_graph.rewrite.pipeline import optimize_graph
from lora_graph.rewrite.record import Report

MOST_BOXES = 300
"""Boxes in a picture that is to be taken in at a glance; modules are folded until there are no more."""


def model_scene(model: Inspected, preset: str | None = None) -> Scene:
    """What ``model`` computes with what each node costs, and how the passes of ``preset`` change it."""
    report = optimize_graph(model.graph, preset).report if preset else None
    costs = costs_of(model, report)
    said: Mapping[Value, Mapping[str, str]] = details(costs)
    return scene_of(model.graph, report=report, metrics=metrics(costs), details=said, adapters=model.adapters)


def costs_of(model: Inspected, report: Report | None = None) -> dict[Value, Cost]:
    """What each Value costs, those included that the passes of ``report`` made."""
    costs = Costs(model.graph, model.binding)
    made = (value for step in (report.passes if report else ()) for value in step.after.values if value.operands)
    return costs.of | {value: costs.cost(value) for value in dict.fromkeys(made) if value not in costs.of}


def picture(
    model: Model | Inspected,
    path: str | os.PathLike[str] | None = None,
    *,
    preset: str | None = None,
    depth: int | None = None,
    constants: bool = False,
    heat: str = "",
) -> str:
    """``model``, after the passes of ``preset`` if one is given, as the text of an SVG image.

    A model is what :func:`lora_graph.summarize` takes: a layer, a graph, an ONNX model, a run. Modules inside ``depth``
    others are boxes of their own; where ``depth`` is None, so many that the picture stays readable. Nodes are shaded by
    ``heat``, "flops" or "bytes". With ``path`` the
    image is also written to that file, as a whole or not at all. LoadError for what cannot be read, ValueError for a
    preset there is not or a depth below 0.
    """
    if depth is not None:
        checks.integer("depth", depth, 0)
    checks.flag("constants", constants)
    scene = model_scene(model if isinstance(model, Inspected) else Inspected.of(model), preset)
    layout = lay_out(scene.only(len(scene.stages) - 1))
    depth = readable_depth(layout) if depth is None else depth
    text = svg(layout, depth=depth, constants=constants, heat=heat)
    return _written(text, path)


def diff_picture(report: DiffReport, path: str | os.PathLike[str] | None = None, *, depth: int | None = None) -> str:
    """Both graphs of a diff side by side, with what differs marked, as an SVG image; see :func:`picture`."""
    layout = lay_out(diff_scene(report))
    text = side_by_side(layout, depth=readable_depth(layout) if depth is None else depth)
    return _written(text, path)


def profile_picture(
    report: ProfileReport, path: str | os.PathLike[str] | None = None, adapters: Collection[str] = ()
) -> str:
    """The graph that the first engine ran, shaded by the time of its nodes, as an SVG image; see :func:`picture`."""
    scene = profile_scene(report, adapters)
    layout = lay_out(scene.only(0))
    heat = next(name for name in scene.metrics if name.startswith(TIME))
    return _written(svg(layout, depth=readable_depth(layout), heat=heat), path)


def _written(text: str, path: str | os.PathLike[str] | None) -> str:
    if path is not None:
        with atomic_write(path) as file:
            file.write(text.encode())
    return text


def readable_depth(layout: Layout, most: int = MOST_BOXES) -> int | None:
    """The largest depth with no more than ``most`` boxes, None if that is everything; 0 if there always are more."""
    deepest = max(block.depth for block in layout.blocks)
    fitting = [depth for depth in range(deepest + 1) if boxes_at(layout, depth) <= most]
    return None if deepest in fitting else max(fitting, default=0)
