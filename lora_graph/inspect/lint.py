"""Adapter files against the model they are meant for: everything in them that does not fit, each in one line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy.typing as npt

from lora_graph.adapters.adapted import AdaptedModel
from lora_graph.adapters.files import BASE, CONFIG, AdapterConfig, fingerprint
from lora_graph.adapters.targets import targets
from lora_graph.errors import LoadError
from lora_graph.inspect.cases import slots_of
from lora_graph.inspect.foreign import lint_foreign
from lora_graph.inspect.report import Finding, error, note, warning
from lora_graph.inspect.tensors import compared, judged
from lora_graph.interop.keys import PREFIX
from lora_graph.interop.tensors import PICKLES
from lora_graph.ir.types import Array, type_of
from lora_graph.layers.layer import Layer
from lora_graph.layers.weights import read_metadata, read_safetensors
from lora_graph.onnx.adapter_file import MAGIC, VERSION, model_version, read_unchecked
from lora_graph.onnx.export import export_onnx, load_onnx
from lora_graph.onnx.forms.deployment import FINGERPRINT
from lora_graph.onnx.importer import read_model
from lora_graph.onnx.source import ModelSource

NO_SLOTS = "the model takes no adapters at run time: export it with form='hot-swap', 'web' or 'multi-adapter'"


@dataclass(frozen=True)
class Looked:
    """What was found in an adapter file; and the model with it, or the matrices that the model takes at run time."""

    findings: tuple[Finding, ...]
    model: Layer | ModelSource
    matrices: Mapping[str, Array] = field(default_factory=dict)


def lint_adapter(
    model: Layer | ModelSource, path: str | Path, *, base_weights: Mapping[str, npt.ArrayLike] | None = None
) -> tuple[Finding, ...]:
    """Whether the adapter at ``path`` fits ``model``: findings, of which errors say that it cannot be used.

    A file of ONNX Runtime (``.onnx_adapter``), or its arrays as safetensors, is compared with what a model of the form
    hot-swap, web or multi-adapter takes; a file that ``save_adapter`` wrote, a PEFT folder, and a file of LyCORIS or
    kohya with the weights of the model. Looked at are the names that are missing or too many, shapes, dtypes and ranks,
    numbers that are not finite, matrices that are all zero, and the fingerprint of the base.

    LoadError for a file that is none of these, or cannot be read at all.
    """
    return look(model, Path(path), base_weights or {}).findings


def look(model: Layer | ModelSource, path: Path, base_weights: Mapping[str, npt.ArrayLike]) -> Looked:
    """As :func:`lint_adapter`, with the model that has the adapter, where it can be used."""
    if path.is_dir():
        return _foreign(_base(model), path, base_weights)
    if not path.is_file():
        raise LoadError(f"{path}: no such file or folder")
    with open(path, "rb") as file:
        is_native = file.read(8)[4:] == MAGIC or path.suffix == ".onnx_adapter"
    if is_native:
        arrays, version, base = read_unchecked(path)
        odd = [] if version == VERSION else [error("", f"its adapter version is {version}, expected {VERSION}")]
        return _slots(model, arrays, odd, lambda wanted: model_version(wanted) == base)
    if path.suffix in PICKLES:
        raise LoadError(f"{path}: a pickle may run any code and is never read; save the adapter as safetensors")
    metadata = read_metadata(path)
    if CONFIG in metadata:
        return _own(_base(model), path, metadata[CONFIG])
    tensors = read_safetensors(path)
    if FINGERPRINT in metadata:
        return _slots(model, tensors, [], metadata[FINGERPRINT].__eq__)
    if any(name.startswith(PREFIX) for name in tensors):
        raise LoadError(f"{path}: its tensors are those of a PEFT folder: give the folder, which has the scale as well")
    return _foreign(_base(model), path, base_weights)


def _base(model: Layer | ModelSource) -> Layer:
    """What an adapter is put on: the base of a run, or the model as it is."""
    layer = model if isinstance(model, Layer) else load_onnx(model)
    return layer.base if isinstance(layer, AdaptedModel) else layer


def _foreign(base: Layer, path: Path, base_weights: Mapping[str, npt.ArrayLike]) -> Looked:
    findings, adapted = lint_foreign(base, path, base_weights)
    return Looked(findings, base if adapted is None else adapted.eval())


def _slots(
    model: Layer | ModelSource, arrays: Mapping[str, Array], odd: list[Finding], is_for: Callable[[str], bool]
) -> Looked:
    """The arrays of an adapter against the slots of a model; ``is_for`` tells whether a fingerprint is its base's."""
    source = export_onnx(model, form="hot-swap") if isinstance(model, Layer) else model
    read = read_model(source)
    wanted = slots_of(read.graph, read.metadata)
    if not wanted:
        return Looked((*odd, error("", NO_SLOTS)), source)
    ordered = {name: arrays[name] for name in (*wanted, *sorted(arrays)) if name in arrays}
    findings = [*odd, *compared(ordered, wanted), *judged(ordered)]
    expected = read.metadata.get(FINGERPRINT)
    if expected is None:
        findings.append(warning("", "the model has no fingerprint of its base to compare with"))
    elif not is_for(expected):
        findings.append(error("", "was made for another base, or the base has changed since"))
    return Looked(tuple(findings), source, arrays)


def _own(base: Layer, path: Path, text: str) -> Looked:
    """A file that ``save_adapter`` wrote, against the base."""
    tensors = read_safetensors(path)
    try:
        config = AdapterConfig.from_json(text)
    except ValueError as problem:
        return Looked((error("", f"its metadata {CONFIG!r} cannot be read: {problem}"),), base)
    kept = {label.removeprefix(BASE): array for label, array in tensors.items() if label.startswith(BASE)}
    state, adapted = base.state, AdaptedModel(base)
    findings = [*judged({name: array for name, array in tensors.items() if not name.startswith(BASE)})]
    if fingerprint(state, kept) != config.fingerprint:
        findings.append(error("", f"was trained on another base than {base.layer_name}"))
    known = {target.name for target in targets(base)}
    unknown = [name for name in config.weights if name not in known]
    findings += [error(name, "is a weight that the model does not have, or does not multiply by") for name in unknown]
    if not unknown:
        try:
            made = adapted.remade(config)
        except (ValueError, TypeError) as problem:
            findings.append(error("", str(problem)))
        else:
            own = {name: type_of(array) for name, array in made.state.items() if not name.startswith(BASE)}
            of_base = {BASE + name: type_of(state[name]) for name in kept if name in state}
            findings += compared(tensors, own | of_base)
    if any(finding.severity == "error" for finding in findings):
        return Looked(tuple(findings), base)
    try:
        adapted.load_adapter(path)
    except LoadError as problem:  # what only loading finds
        return Looked((*findings, error("", str(problem).removeprefix(f"{path}: "))), base)
    ranks = ", ".join(map(str, sorted({rank for rank, _ in config.weights.values()})))
    found = note("", f"{config.family} of rank {ranks} at {len(config.weights)} weights of the model")
    return Looked((*findings, found), adapted.eval())
