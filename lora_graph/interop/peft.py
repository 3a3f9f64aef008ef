"""Reading adapters that PEFT saved: a folder with ``adapter_config.json`` and ``adapter_model.safetensors``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lora_graph.adapters.adapted import AdaptedModel
from lora_graph.errors import LoadError
from lora_graph.interop import forms
from lora_graph.interop.attach import Placed, attach, place
from lora_graph.interop.base import replace_base
from lora_graph.interop.forms import Form
from lora_graph.interop.keys import EMBEDDING, PAIR, sort_keys
from lora_graph.interop.kronecker import NAMES as LOKR
from lora_graph.interop.kronecker import kronecker
from lora_graph.interop.modules import Modules
from lora_graph.interop.peft_config import PeftConfig
from lora_graph.interop.report import ImportReport
from lora_graph.interop.residual import residual
from lora_graph.interop.tensors import PICKLES, Tensors, base_arrays, read_tensors
from lora_graph.ir.types import Array
from lora_graph.layers.layer import Layer

TENSORS = "adapter_model.safetensors"


def load_peft(
    model: Layer, path: str | Path, *, base_weights: Mapping[str, npt.ArrayLike] | None = None
) -> AdaptedModel:
    """``model`` with the adapter of the folder ``path``, which PEFT saved: ready to run, train, merge and export.

    LoRA on linear layers, HF's Conv1D, convolutions and embeddings, DoRA, and LoKr are read. Parameters of the base
    that the folder has (biases, ``modules_to_save``) take their values in the result, and train there; ``model``
    itself is not changed. ``report`` of the result says how each module was found.

    ``base_weights`` are the arrays that the base had before it was exported, by parameter, such as ``conv1.weight``:
    they identify a weight where no name does, and undo a BatchNorm that was folded into one.

    LoadError naming file and tensor or option for whatever cannot be read or cannot be honoured.
    """
    folder = Path(path)
    if not isinstance(model, Layer):
        raise TypeError(f"model must be a Layer, got {model!r}")
    if folder.is_file():
        raise LoadError(f"{folder}: a file; PEFT saves a folder, and lg.load_lycoris reads files of LyCORIS and kohya")
    config = PeftConfig.read(folder)
    file = tensor_file(folder)
    keys = sort_keys(file, read_tensors(file, model.dtype))
    found = {module: form_of(module, tensors, config) for module, tensors in keys.adapters.items()}
    given = base_arrays(base_weights, model.dtype)
    adapted, placed = place(model, file, found, given, keys.base)
    if config.residual:
        adapted.replace_base(_residuals(folder, config, placed), trainable=False)
    replaced = replace_base(adapted, file, Modules(adapted.base, given), keys.base, config.modules_to_save)
    attach(adapted, placed)
    adapted.report = ImportReport(str(folder), (*(item.report() for item in placed), *replaced))
    return adapted


def tensor_file(folder: Path) -> Path:
    """Where the folder has its tensors; LoadError if it has them as a pickle only."""
    path = folder / TENSORS
    if not path.exists():
        pickled = [item for item in sorted(folder.glob("adapter_model.*")) if item.suffix in PICKLES]
        if pickled:
            raise LoadError(f"{pickled[0]}: a pickle may run any code and is never read; save it as {TENSORS}")
    return path


def form_of(module: str, tensors: Tensors, config: PeftConfig) -> Form:
    """What the folder has for a module; LoadError naming the tensor that is missing, too many or of another shape."""

    def scale(rank: int) -> float:
        return config.scale_of(module, rank)

    if config.kind == "LOKR":
        tensors.only(LOKR)
        return kronecker(tensors, config.rank_of(module), scale)
    names = EMBEDDING if EMBEDDING.down in tensors or EMBEDDING.up in tensors else PAIR
    tensors.only(names.known)
    if config.use_dora:
        tensors[names.magnitude]
    return (forms.embedding if names is EMBEDDING else forms.low_rank)(tensors, names, scale)


def _residuals(folder: Path, config: PeftConfig, placed: Sequence[Placed]) -> dict[str, Array]:
    """The weights of the base without what the initialization took out of them."""
    left: dict[str, Array] = {}
    for item in placed:
        weight = item.found.weight
        is_stored_otherwise = config.residual == "olora" and config.fan_in_fan_out
        if weight.target.kind != "linear" or is_stored_otherwise:
            raise LoadError(f"{folder}: init_lora_weights = {config.residual!r} cannot be honoured at {item.module}")
        taken = residual(weight.in_layout(weight.array), config.residual, item.form.rank, item.form.scale)
        left[weight.name] = np.array(weight.in_layout(taken), order="C")
    return left
