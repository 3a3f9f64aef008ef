"""Putting what a file has for its modules at the weights of a model."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lora_graph.adapters.adapted import DEFAULT, AdaptedModel
from lora_graph.adapters.adapter import FAMILIES
from lora_graph.errors import LoadError
from lora_graph.interop.batchnorm import unfold
from lora_graph.interop.forms import Form
from lora_graph.interop.modules import Found, Modules
from lora_graph.interop.report import ImportReport, ModuleReport
from lora_graph.interop.separate import separated
from lora_graph.interop.tied import untied
from lora_graph.interop.zero_bias import with_biases
from lora_graph.ir.types import Array
from lora_graph.layers.layer import Layer


@dataclass(frozen=True)
class Placed:
    """A module of a file at the weight it was found to be."""

    module: str
    form: Form
    found: Found
    note: str = ""

    @property
    def weight(self) -> str:
        return self.found.weight.name

    def report(self) -> ModuleReport:
        weight, form = self.found.weight, self.form
        return ModuleReport(
            self.module,
            weight.name,
            weight.array.shape,
            weight.layout,
            form.described,
            form.rank,
            form.scale,
            self.found.ways,
            self.note,
        )


def adapted_by(model: Layer, path: Path, forms: Mapping[str, Form], base_weights: Mapping[str, Array]) -> AdaptedModel:
    """``model`` with adapters of these forms, by module, and a report of where they went."""
    adapted, placed = place(model, path, forms, base_weights)
    attach(adapted, placed)
    adapted.report = ImportReport(str(path), tuple(item.report() for item in placed))
    return adapted


def place(
    model: Layer,
    path: Path,
    forms: Mapping[str, Form],
    base_weights: Mapping[str, Array],
    replaced: Collection[str] = (),
) -> tuple[AdaptedModel, list[Placed]]:
    """An adapted model without an adapter yet, whose base has the weights that ``forms`` were made for.

    No other module has a part in these, nor in the parameters named in ``replaced``. LoadError naming file and tensor
    for a module that is not exactly one weight of a fitting shape.
    """
    model = separated(untied(model), {*replaced, *(f"{module}.weight" for module in forms)})
    model = with_biases(model, replaced)
    before = Modules(model, base_weights)
    found = _find_all(path, before, forms)
    base, notes = unfold(model, path, before, found)
    adapted = AdaptedModel(base)
    after = {weight.name: weight for weight in Modules(adapted.base, {}).weights}
    return adapted, [
        Placed(module, forms[module], replace(hit, weight=after[hit.weight.name]), notes.get(module, ""))
        for module, hit in found.items()
    ]


def _find_all(path: Path, modules: Modules, forms: Mapping[str, Form]) -> dict[str, Found]:
    found: dict[str, Found] = {}
    taken: dict[str, str] = {}
    for module, form in forms.items():
        try:
            hit = modules.find(module, form.kinds, form.fits, str(form))
        except ValueError as error:
            raise form.tensors.error(form.tensors.names[0], f"has no place in the model: {error}") from error
        other = taken.setdefault(hit.weight.name, module)
        if other != module:
            raise LoadError(f"{path}: {other} and {module} are both found to be {hit.weight.name}")
        found[module] = hit
    return found


def attach(adapted: AdaptedModel, placed: Sequence[Placed]) -> None:
    """One adapter for all modules of one family and with the same options; the first has the usual name."""
    groups: dict[tuple[str, str], list[Placed]] = {}
    for item in placed:
        groups.setdefault((item.form.family, str(item.form.options)), []).append(item)
    adapted.module_names.update({item.weight: item.module for item in placed})
    for number, ((family, _), items) in enumerate(groups.items()):
        name = f"{DEFAULT}_{family}" if number else DEFAULT
        _attach(adapted, name if name not in adapted.adapters else f"{name}_{number}", items)


def _attach(adapted: AdaptedModel, name: str, items: Sequence[Placed]) -> None:
    family, options = FAMILIES[items[0].form.family], items[0].form.options
    forms = {item.weight: item.form for item in items}
    matrices = {item.weight: item.form.at(item.found.weight) for item in items}
    ranks = {weight: form.rank for weight, form in forms.items()}
    alphas = {weight: form.scale * form.rank for weight, form in forms.items()}
    adapted.attach(family.from_matrices(adapted.base, matrices, ranks, alphas, **options), name)
