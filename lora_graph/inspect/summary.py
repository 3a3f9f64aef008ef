"""A model at a glance: what goes in and out, what it is made of, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lora_graph import checks
from lora_graph.display import Shown
from lora_graph.inspect.cost import Cost, Costs, amount, nbytes
from lora_graph.inspect.engines import input_types
from lora_graph.inspect.inspected import Inspected, Model
from lora_graph.inspect.modules import Module, Parameters, counted, histogram, modules
from lora_graph.ir.types import Array

MOST_PORTS, MOST_OPS = 8, 12
"""Inputs, outputs, and kinds of ops that are named in the facts about a model."""


@dataclass(frozen=True)
class Summary(Shown):
    """What :func:`lora_graph.summarize` finds out about a model. Costs are for the sizes of ``binding``."""

    model: str
    opset: int | None
    """Of the file that it was read from."""
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    binding: Mapping[str, int]
    ops: Mapping[str, int]
    parameters: Parameters
    weight_bytes: int
    adapters: tuple[Mapping[str, Any], ...]
    cost: Cost
    peak: int
    """Bytes of results that are alive at once, at most."""
    uncounted: Mapping[str, int]
    """Ops whose operations are not known."""
    modules: tuple[Module, ...]

    def share(self, module: Module) -> float:
        """Of all operations, those in a module; of all bytes where there are no operations."""
        part, whole = (module.cost.flops, self.cost.flops) if self.cost.flops else (module.cost.bytes, self.cost.bytes)
        return part / whole if whole else 0.0

    @property
    def facts(self) -> Iterator[tuple[str, str]]:
        """What it is and costs in words, a name and a text a fact."""
        counts, cost = self.parameters, self.cost
        yield "model", self.model + (f" (opset {self.opset})" if self.opset else "")
        for what, types in (("inputs", self.inputs), ("outputs", self.outputs)):
            listed = [f"{name}: {kind}" for name, kind in types.items()]
            rest = [f"and {len(listed) - MOST_PORTS} more"] if len(listed) > MOST_PORTS else []
            yield what, "; ".join([*listed[:MOST_PORTS], *rest]) or "none"
        yield "ops", f"{sum(self.ops.values()):,}: {mix(self.ops, MOST_OPS)}"
        share = f" ({counts.trainable / counts.total:.2%})" if counts.trainable else ""
        apart = f", {counts.adapter:,} of adapters" if counts.adapter else ""
        yield "parameters", f"{counts.total:,} in {nbytes(self.weight_bytes)}; {counts.trainable:,} train{share}{apart}"
        for record in self.adapters:
            where = record["path"] or "model"
            yield "adapter", f"{where}: {record['family']} of rank {record['exported_rank']}, alpha {record['alpha']:g}"
        sizes = ", ".join(f"{name} = {size}" for name, size in self.binding.items())
        yield "operations", amount(cost.flops, "FLOP") + (f" at {sizes}" if sizes else "")
        moved = f"{nbytes(cost.read)} read, {nbytes(cost.written)} written"
        yield "moved", f"{moved}: {cost.intensity:.2f} FLOP/byte" if cost.bytes else moved
        yield "activations", f"{nbytes(self.peak)} at the peak"

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON; the keys are those of docs/inspect.md."""
        return {
            "model": self.model,
            "opset": self.opset,
            "inputs": dict(self.inputs),
            "outputs": dict(self.outputs),
            "sizes": dict(self.binding),
            "ops": dict(self.ops),
            "parameters": asdict(self.parameters),
            "weight_bytes": self.weight_bytes,
            "adapters": [dict(record) for record in self.adapters],
            "cost": _plain(self.cost) | {"peak_activation_bytes": self.peak},
            "uncounted": dict(self.uncounted),
            "modules": [
                {
                    "name": module.name,
                    "ops": dict(module.ops),
                    "parameters": asdict(module.parameters),
                    "cost": _plain(module.cost),
                    "share": self.share(module),
                }
                for module in self.modules
            ],
        }

    def __repr__(self) -> str:
        facts = f"{sum(self.ops.values())} ops, {self.parameters.total:,} parameters, {amount(self.cost.flops, 'FLOP')}"
        return f"<Summary of {self.model}: {facts}>"

    def __str__(self) -> str:
        counts, cost = self.parameters, self.cost
        sizes = ", ".join(f"{name} = {size}" for name, size in self.binding.items())
        lines = [
            f"{self.model}: {', '.join(self.inputs.values())} -> {', '.join(self.outputs.values())}",
            f"{sum(self.ops.values())} ops: {mix(self.ops)}",
            f"{counts.total:,} parameters, {counts.trainable:,} train, {counts.adapter:,} of adapters",
            f"{amount(cost.flops, 'FLOP')}, {nbytes(cost.bytes)} moved, {cost.intensity:.2f} FLOP/byte, "
            f"{nbytes(self.peak)} of activations" + (f" (at {sizes})" if sizes else ""),
        ]
        lines += [
            f"  {module.name or '(model)'}: {mix(module.ops)}; {module.parameters.total:,} parameters, "
            f"{amount(module.cost.flops, 'FLOP')}, {self.share(module):.1%}"
            for module in self.modules
        ]
        return "\n".join(lines)


def summarize(
    model: Model,
    *,
    state: Mapping[str, Array] | None = None,
    sizes: Mapping[str, int] | None = None,
    depth: int | None = None,
) -> Summary:
    """What ``model`` takes, gives, is made of and costs, before any rewriting.

    ``model`` is a layer, a graph (perhaps with its ``state``), or an ONNX model as bytes, ModelProto or path; a path
    may also be that of a run, or the name of a built-in layer. ``sizes`` are those of named dimensions (by default a
    batch is 1 and what else has a name 16) and of the constructor of a built-in layer. Modules are told apart down to
    paths of ``depth`` names, by default as far as there are at most 40 of them.

    LoadError for a file that cannot be read, ValueError for sizes that the model does not have.
    """
    return summary_of(Inspected.of(model, state=state, sizes=sizes), depth)


def summary_of(model: Inspected, depth: int | None = None) -> Summary:
    """The summary of what has been opened already."""
    costs = Costs(model.graph, model.binding)
    return Summary(
        model=model.label,
        opset=model.opset,
        inputs={name: str(kind) for name, kind in input_types(model.graph).items()},
        outputs={name: str(value.type) for name, value in model.graph.outputs.items()},
        binding=model.binding,
        ops=histogram(model.graph.values),
        parameters=counted(model, model.graph.parameters),
        weight_bytes=sum(costs.nbytes(leaf.type) for leaf in model.graph.parameters.values()),
        adapters=model.records,
        cost=costs.total,
        peak=costs.peak,
        uncounted=costs.unknown,
        modules=tuple(modules(model, costs, None if depth is None else checks.integer("depth", depth, 0))),
    )


def mix(ops: Mapping[str, int], most: int = 0) -> str:
    """The counts of ops in words, the ``most`` frequent of them, or all: ``2 MatMul, Add``."""
    shown = list(ops.items())[: most or None]
    listed = [name if count == 1 else f"{count} {name}" for name, count in shown]
    return ", ".join([*listed, "…"] if len(shown) < len(ops) else listed) or "no ops"


def _plain(cost: Cost) -> dict[str, Any]:
    return {
        "flops": cost.flops,
        "bytes_read": cost.read,
        "bytes_written": cost.written,
        "bytes": cost.bytes,
        "intensity": cost.intensity,
    }
