"""Pipelines: ordered passes, verified one by one, with a record of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lora_graph.garbage import no_collections
from lora_graph.ir.graph import Graph
from lora_graph.ir.types import Array
from lora_graph.ir.value import Value
from lora_graph.ir.verify import verify
from lora_graph.rewrite.algebra import IDENTITIES
from lora_graph.rewrite.blocks import BLOCKS
from lora_graph.rewrite.convolution import MERGE_CONVOLUTIONS, scale_kernel
from lora_graph.rewrite.engine import rewrite
from lora_graph.rewrite.fold import State, fold_constants, hoist, run_prelude
from lora_graph.rewrite.fuse import ACCUMULATE, FUSED, GEMM, ORDER
from lora_graph.rewrite.layout import LAYOUT
from lora_graph.rewrite.lookup import MERGE_LOOKUPS
from lora_graph.rewrite.loops import SPELL, rewrite_bodies, trim_loops
from lora_graph.rewrite.merge import MERGE, UNFUSE
from lora_graph.rewrite.products import PLACE_SCALES, PRODUCTS, identity_times
from lora_graph.rewrite.record import PassRecord, Report
from lora_graph.rewrite.rule import Facts, Rule
from lora_graph.rewrite.share import share_activations

Step = tuple[Graph, Graph | None, PassRecord]


@dataclass(frozen=True)
class Pass:
    """A named step: a graph in, a graph out, sometimes a prelude that computes new weights from old ones."""

    name: str
    run: Callable[[Graph], Step]


@dataclass(frozen=True)
class Pipeline:
    """An ordered tuple of passes. The graph is verified after each."""

    name: str
    passes: tuple[Pass, ...]

    def run(self, graph: Graph) -> Optimized:
        with no_collections():
            return self._run(graph)

    def _run(self, graph: Graph) -> Optimized:
        records: list[PassRecord] = []
        preludes: list[tuple[Graph, Graph]] = []
        verified: set[Value] = set()
        for step in self.passes:
            graph, prelude, record = step.run(graph)
            if not records or record.after is not record.before:
                verify(graph, verified)
                verified.update(graph.values)
            records.append(record)
            if prelude is not None:
                preludes.append((prelude, graph))
        return Optimized(graph, tuple(preludes), Report(tuple(records)))


@dataclass(frozen=True)
class Optimized:
    """What a pipeline leaves: the graph, the preludes that compute its weights, and the report."""

    graph: Graph
    preludes: tuple[tuple[Graph, Graph], ...]
    report: Report

    def state(self, state: State) -> dict[str, Array]:
        """The arrays of the optimized graph, from those of the original one."""
        for prelude, graph in self.preludes:
            state = run_prelude(prelude, graph, state)
        return {name: state[name] for name in self.graph.parameters}


def rules(name: str, chosen: Sequence[Rule], fold: str = "none") -> Pass:
    """A pass that applies rules until nothing changes."""

    def run(graph: Graph) -> Step:
        new, record = rewrite(graph, chosen, Facts(fold), name)
        return new, None, record

    return Pass(name, run)


def hoisting(fold: str) -> Pass:
    """A pass that moves what depends on weights alone to a prelude."""
    return Pass("hoist weights", lambda graph: hoist(graph, Facts(fold)))


def _fold(graph: Graph) -> Step:
    new, record = fold_constants(graph)
    return new, None, record


FOLD = Pass("fold constants", _fold)


def _presets() -> tuple[Pipeline, ...]:
    basic = [*IDENTITIES, *LAYOUT, *BLOCKS]
    merging = [*basic, *MERGE, *MERGE_CONVOLUTIONS, scale_kernel, *MERGE_LOOKUPS, identity_times]
    spell = rules("spell loops", SPELL)
    loops = Pass("trim loops", trim_loops), Pass("simplify bodies", lambda graph: rewrite_bodies(graph, basic))
    unfuse, merge = rules("unfuse", UNFUSE), rules("merge", merging, "all")
    gemm = rules("order", ORDER), rules("fuse Gemm", GEMM)
    accumulate = (rules("accumulate", ACCUMULATE),)
    learn = spell, Pass("share activations", share_activations)

    def preset(
        name: str,
        fold: str,
        first: tuple[Pass, ...] = (),
        last: tuple[Pass, ...] = (),
        products: Sequence[Rule] = PRODUCTS,
    ) -> Pipeline:
        simplify = rules("simplify", [*basic, *products, scale_kernel], fold)
        hoists = () if fold == "none" else (hoisting(fold),)
        return Pipeline(name, (FOLD, *first, simplify, *loops, FOLD, *hoists, rules("fuse", FUSED, fold), *last))

    return (
        preset("train", "none", learn, accumulate),
        preset("train-onnx", "none", learn, gemm),
        preset("inference", "one", (unfuse, spell), accumulate),
        preset("export", "one", (unfuse,), gemm),
        preset("prepare", "one", (unfuse,), products=PLACE_SCALES),
        Pipeline("finish", gemm),
        Pipeline("merge", (FOLD, unfuse, merge, FOLD)),
        preset("deploy", "all", (unfuse, merge), gemm),
    )


PRESETS = {preset.name: preset for preset in _presets()}
"""``train`` keeps every parameter, and so does ``train-onnx``, which fuses for ONNX; ``inference`` also scales weights
ahead of time; ``deploy`` merges adapters into their base and fuses for ONNX. ``export`` is ``inference`` fused for
ONNX, ``merge`` is merging by itself. ``prepare`` scales weights ahead of time and leaves the order of products as it
is, for what is done to those of adapters before ``finish`` fuses."""


def optimize_graph(graph: Graph, preset: str = "inference") -> Optimized:
    """``graph`` after the passes of a preset; ValueError listing the names of presets there are."""
    if preset not in PRESETS:
        raise ValueError(f"preset must be one of {sorted(PRESETS)}, got {preset!r}")
    return PRESETS[preset].run(graph)
