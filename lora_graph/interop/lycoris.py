"""Reading the files of LyCORIS and kohya: one safetensors file, module paths written with underscores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lora_graph.adapters.adapted import AdaptedModel
from lora_graph.errors import LoadError
from lora_graph.interop.attach import adapted_by
from lora_graph.interop.forms import Form, Names, low_rank
from lora_graph.interop.keys import PREFIX
from lora_graph.interop.kronecker import NAMES as LOKR
from lora_graph.interop.kronecker import kronecker
from lora_graph.interop.modules import Modules
from lora_graph.interop.peft_config import CONFIG
from lora_graph.interop.tensors import Tensors, base_arrays, read_tensors
from lora_graph.interop.tied import untied
from lora_graph.ir.types import Array
from lora_graph.layers.layer import Layer

PREFIXES = ("lycoris", "lora", "lora_unet", "lora_te", "lora_te1", "lora_te2", "lora_te3", "lora_transformer")


def _norms(out: int, inner: int, ones: tuple[int, ...]) -> dict[tuple[int, ...], str]:
    return {(1, inner, *ones): "input", (out, 1, *ones): "output"}


PAIR = Names("lora_down.weight", "lora_up.weight", "lora_mid.weight", magnitude="dora_scale", norms=_norms)
ALPHA = "alpha"


def load_lycoris(
    model: Layer, path: str | Path, *, base_weights: Mapping[str, npt.ArrayLike] | None = None
) -> AdaptedModel:
    """``model`` with the adapter of a LyCORIS or kohya file: ready to run, train, merge and export.

    LoRA and LoCon are read, with a Tucker core or DoRA's scale, and LoKr in all its forms. ``base_weights`` and the
    ``report`` of the result are those of :func:`load_peft`.

    LoadError naming file and tensor for whatever cannot be read or cannot be honoured.
    """
    file = Path(path)
    if not isinstance(model, Layer):
        raise TypeError(f"model must be a Layer, got {model!r}")
    if file.is_dir():
        raise LoadError(f"{file}: a folder; lg.load_peft reads those that PEFT saved, LyCORIS and kohya write one file")
    found = read_tensors(file, model.dtype)
    if any(key.startswith(PREFIX) for key in found):
        raise LoadError(f"{file}: a file of PEFT, which goes with its {CONFIG}: give the folder that both are in")
    modules = grouped(file, found)
    given = base_arrays(base_weights, model.dtype)
    known = flattened(Modules(untied(model), given))
    forms: dict[str, Form] = {}
    for flat, tensors in modules.items():
        module = module_of(flat, known, tensors)
        if module in forms:
            raise LoadError(f"{file}: {flat} is {module}, which the file has under another prefix as well")
        forms[module] = form_of(tensors)
    return adapted_by(model, file, forms, given)


def grouped(file: Path, tensors: Mapping[str, Array]) -> dict[str, Tensors]:
    """The tensors of each module, which is named as in the file."""
    found: dict[str, Tensors] = {}
    for key, array in tensors.items():
        module, _, parameter = key.partition(".")
        found.setdefault(module, Tensors(file, f"{module}.")).add(parameter, array)
    return found


def flattened(modules: Modules) -> dict[str, set[str]]:
    """The paths of modules, and the ends of these, by how they are written with underscores."""
    found: dict[str, set[str]] = {}
    for path in modules.paths():
        parts = path.split(".")
        for start in range(len(parts)):
            found.setdefault("_".join(parts[start:]), set()).add(".".join(parts[start:]))
    return found


def module_of(flat: str, known: Mapping[str, set[str]], tensors: Tensors) -> str:
    """The module that is written ``flat`` behind one of the prefixes."""
    rests = [flat.removeprefix(f"{prefix}_") for prefix in PREFIXES if flat.startswith(f"{prefix}_")]
    found = sorted({path for rest in rests for path in known.get(rest, ())})
    if len(found) == 1:
        return found[0]
    name = tensors.names[0]
    if found:
        raise tensors.error(name, f"may belong to any of {', '.join(found)}")
    raise tensors.error(name, f"has no place in the model: no module is written so behind {', '.join(PREFIXES)}")


def form_of(tensors: Tensors) -> Form:
    """What the file has for a module; LoadError naming the tensor that is missing, too many or of another shape."""

    def scale(rank: int) -> float:
        return _alpha(tensors, rank) / rank

    if any(name.startswith("lokr_") for name in tensors.names):
        tensors.only((*LOKR, ALPHA))
        return kronecker(tensors, 1, scale, whole_scale=1.0)
    tensors.only((*PAIR.known, ALPHA))
    return low_rank(tensors, PAIR, scale)


def _alpha(tensors: Tensors, default: float) -> float:
    if ALPHA not in tensors:
        return default
    alpha = tensors[ALPHA]
    if alpha.size != 1 or not np.all(alpha > 0):
        raise tensors.error(ALPHA, f"must be one positive number, got {alpha.tolist()}")
    return float(alpha.reshape(()))
