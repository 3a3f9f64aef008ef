"""Exporting layers: one form of deployment, one pipeline, the same lowering."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from lora_graph import checks
from lora_graph.layers.imported import ImportedLayer
from lora_graph.layers.interface import Axes
from lora_graph.layers.layer import Layer
from lora_graph.layers.weights import save_weights
from lora_graph.onnx.adapter_file import AdapterFile, model_version
from lora_graph.onnx.forms import form_of
from lora_graph.onnx.forms.deployment import FINGERPRINT
from lora_graph.onnx.forms.half import half_of, halved
from lora_graph.onnx.forms.slots import base_fingerprint
from lora_graph.onnx.importer import read_model
from lora_graph.onnx.model import lower
from lora_graph.onnx.source import ModelSource
from lora_graph.onnx.store import export_model


def export_onnx(
    layer: Layer,
    path: str | os.PathLike[str] | None = None,
    *,
    form: str = "parallel",
    opset: int = 21,
    input_shape: Axes | Mapping[str, Axes] | None = None,
    dtype: npt.DTypeLike | None = None,
    **options: Any,
) -> onnx.ModelProto:
    """The evaluation graph of ``layer`` as an ONNX model, written to ``path`` if that is given.

    It goes from ``x`` to ``y``, or between the names that a model which was read, or an adapter around it, has already.

    ``form`` says what of its adapters is left to be chosen when the model runs:

    - ``"parallel"`` keeps adapters beside their base, with the scale s folded into their matrices (the metadata
      ``lora_graph.adapters`` says into which); ``"merged"`` folds them into the base, and raises MergeError where that
      is not exact. The weights of an adapted model then have the names of its base.
    - ``"hot-swap"`` is the base alone, which takes the adapter files of :func:`export_adapter`, of any rank; ``"web"``
      is the same with the matrices as required inputs.
    - ``"dynamic-rank"`` has an int64 input ``rank``, by which the matrices of DyLoRA adapters are cut when it runs.
    - ``"multi-adapter"`` has all active adapters of an adapted model in it, and an int64 input ``adapter`` with the
      number of each sample's own, -1 for none. ``layout`` is how they are stacked, ``"columns"`` or ``"rows"``; by
      default the one that costs less. ``"weighted"`` adds all of them up, each times the value of ``<name>.weight``,
      which is 1 unless it is given.

    ``dtype="float16"`` stores the weights of a float32 model in half the size and multiplies them so; inputs, outputs
    and what would suffer keep float32. Its adapter files are to be written with the same ``dtype``.

    The batch dimension stays symbolic. The opset is 21 to 26. Weights over 1 GiB go to external data beside ``path``;
    without a path more than 2 GB are a ValueError.
    """
    if not isinstance(layer, Layer):
        raise TypeError(f"layer must be a Layer, got {layer!r}")
    chosen = form_of(form)
    checks.integer("opset", opset)
    checks.options(f"form={form!r}", chosen.deploy, options)
    is_half = _is_half(dtype)
    made = chosen.deploy(layer, input_shape, **options)
    if is_half:
        made = halved(made)
    metadata = made.metadata(form, base_fingerprint(layer) if made.slots else "")
    how: dict[str, Any] = {"opset": opset, "metadata": metadata, "overridable": made.overridable}
    if path is None:
        return lower(made.graph, made.state, **how)
    return export_model(made.graph, made.state, path, **how)


def export_adapter(
    layer: Layer,
    path: str | os.PathLike[str],
    name: str | None = None,
    *,
    form: str = "hot-swap",
    dtype: npt.DTypeLike | None = None,
    **options: Any,
) -> None:
    """Write an adapter of ``layer`` to a file for the model that ``export_onnx(layer, form=form)`` writes.

    ``name`` says which one, where an adapted model has several active ones; the model that takes the file is that of
    all of them. A file for ``form="multi-adapter"`` always holds all, in the ``layout`` that its model has.

    The file is one of ONNX Runtime's ``.onnx_adapter`` files, whose model version stands for the base; or where
    ``path`` ends in ``.safetensors``, for runtimes without such files, the same arrays with the fingerprint of the base
    in the metadata. The scale s is folded into the matrices.
    """
    if not isinstance(layer, Layer):
        raise TypeError(f"layer must be a Layer, got {layer!r}")
    chosen = form_of(form)
    if chosen.adapter is None:
        raise ValueError(f"a model of the form {form!r} takes no adapter files")
    checks.options(f"an adapter file for form={form!r}", chosen.adapter, options)
    is_half = _is_half(dtype)
    arrays = chosen.adapter(layer, name, **options)
    if is_half:
        arrays = {label: half_of(label, array) for label, array in arrays.items()}
    fingerprint = base_fingerprint(layer)
    if Path(path).suffix == ".safetensors":
        save_weights(arrays, Path(path), {FINGERPRINT: fingerprint})
    else:
        AdapterFile(arrays, model_version(fingerprint)).write(path)


def load_onnx(source: ModelSource) -> ImportedLayer:
    """The ONNX model at a path, in bytes, in a ModelProto or of an onnxscript function, as a layer.

    LoadError for what cannot be trusted or read, naming the file and the node or tensor.
    """
    imported = read_model(source)
    return ImportedLayer(imported.graph, imported.state, imported.metadata)


def _is_half(dtype: npt.DTypeLike | None) -> bool:
    if dtype is None:
        return False
    try:
        name: Any = np.dtype(dtype).name
    except TypeError:
        name = dtype
    return checks.choice("dtype", name, ["float16"]) == "float16"
