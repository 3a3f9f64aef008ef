"""The adapters of other libraries against a model: every module that is wrong by itself, then all of it together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy.typing as npt

from lora_graph.adapters.adapted import AdaptedModel
from lora_graph.errors import LoadError
from lora_graph.inspect.report import Finding, error, note
from lora_graph.inspect.tensors import judged
from lora_graph.interop import load_lycoris, load_peft, lycoris, peft
from lora_graph.interop.forms import Form
from lora_graph.interop.keys import sort_keys
from lora_graph.interop.modules import Modules
from lora_graph.interop.peft_config import PeftConfig
from lora_graph.interop.separate import separated
from lora_graph.interop.tensors import base_arrays
from lora_graph.interop.tied import untied
from lora_graph.ir.types import Array
from lora_graph.layers.layer import Layer
from lora_graph.layers.weights import read_safetensors

Opening = Callable[[], tuple[str, Form]]
"""Gives the path of a module and what a file has for it; LoadError where that is nothing known."""


def lint_foreign(
    base: Layer, path: Path, base_weights: Mapping[str, npt.ArrayLike]
) -> tuple[tuple[Finding, ...], AdaptedModel | None]:
    """The findings for a PEFT folder or a file of LyCORIS; and the adapted model, where none of them is an error."""
    is_peft = path.is_dir()
    file = peft.tensor_file(path) if is_peft else path
    tensors = read_safetensors(file)
    findings = [*judged(tensors), *_dtypes(tensors, base)]
    given = base_arrays(base_weights, base.dtype)
    cast = {name: array.astype(base.dtype) for name, array in tensors.items()}
    try:
        openings = _peft(path, file, cast) if is_peft else _lycoris(base, file, cast, given)
        findings += [error(where, _without(problem, file)) for where, problem in _misplaced(base, openings, given)]
        if any(finding.severity == "error" for finding in findings):
            return tuple(findings), None
        adapted = (load_peft if is_peft else load_lycoris)(base, path, base_weights=base_weights)
    except LoadError as problem:
        return (*findings, error("", _without(str(problem), file))), None
    return (*findings, _summary(adapted)), adapted


def _peft(folder: Path, file: Path, tensors: Mapping[str, Array]) -> dict[str, Opening]:
    config = PeftConfig.read(folder)

    def opening(module: str) -> Opening:
        return lambda: (module, peft.form_of(module, adapters[module], config))

    adapters = sort_keys(file, tensors).adapters
    return {module: opening(module) for module in adapters}


def _lycoris(base: Layer, file: Path, tensors: Mapping[str, Array], given: Mapping[str, Array]) -> dict[str, Opening]:
    grouped = lycoris.grouped(file, tensors)
    known = lycoris.flattened(Modules(untied(base), given))

    def opening(flat: str) -> Opening:
        return lambda: (lycoris.module_of(flat, known, grouped[flat]), lycoris.form_of(grouped[flat]))

    return {flat: opening(flat) for flat in grouped}


def _misplaced(base: Layer, openings: Mapping[str, Opening], given: Mapping[str, Array]) -> Iterator[tuple[str, str]]:
    """The modules of a file that cannot be read, or are not exactly one weight of the model, and why."""
    forms: dict[str, Form] = {}
    for name, opening in openings.items():
        try:
            module, form = opening()
        except LoadError as problem:
            yield name, str(problem)
        else:
            forms[module] = form
    modules = Modules(separated(untied(base), {f"{module}.weight" for module in forms}), given)
    for module, form in forms.items():
        try:
            modules.find(module, form.kinds, form.fits, str(form))
        except ValueError as problem:
            yield module, str(problem)


def _dtypes(tensors: Mapping[str, Array], base: Layer) -> Iterator[Finding]:
    for dtype, count in Counter(array.dtype for array in tensors.values()).items():
        if dtype != base.dtype:
            yield note("", f"{count} tensors are {dtype}, and are used as the {base.dtype} of the model")


def _summary(adapted: AdaptedModel) -> Finding:
    ranks = sorted({entry.rank for entry in adapted.report.modules if entry.rank is not None})
    listed = f", of rank {', '.join(map(str, ranks))}" if ranks else ""
    return note("", f"modules found in the model: {len(adapted.report.modules)}{listed}")


def _without(message: str, file: Path) -> str:
    """The message of an error without the name of the file that is looked at."""
    return message.removeprefix(f"{file}: ")
