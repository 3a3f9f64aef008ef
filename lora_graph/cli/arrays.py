"""Arrays in files, for commands that take and leave them."""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from lora_graph.errors import LoadError
from lora_graph.files import atomic_write
from lora_graph.ir.types import Array, type_of


def read_inputs(path: Path, names: Sequence[str], optional: Sequence[str] = ()) -> dict[str, Array]:
    """The arrays for the inputs ``names``: an .npy file for a single one, or an .npz file that holds them by name.

    The file may hold ``optional`` ones as well; what else is in it is left.
    An .npz file with a single array serves a single input whatever its name. Nothing is ever unpickled.
    """
    with open(path, "rb") as file:
        if not file.read(6).startswith((b"\x93NUMPY", b"PK")):
            raise LoadError(f"{path}: is neither an .npy nor an .npz file")
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = (
            {path.stem: loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
        )
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise LoadError(f"{path}: cannot be read as .npy or .npz: {error}") from error
    if len(names) == 1 and len(arrays) == 1:
        return {names[0]: next(iter(arrays.values()))}
    missing = [name for name in names if name not in arrays]
    if missing:
        raise LoadError(f"{path}: has no array {missing[0]!r}; it holds {', '.join(arrays) or 'nothing'}")
    return {name: arrays[name] for name in (*names, *optional) if name in arrays}


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """An .npz file of ``arrays``, or where ``path`` ends in .npy the only one; ValueError if there are several."""
    buffer = io.BytesIO()
    if path.suffix == ".npy":
        if len(arrays) > 1:
            raise ValueError(f"{path}: an .npy file holds one array, the model gives {', '.join(arrays)}; use .npz")
        np.save(buffer, next(iter(arrays.values())))
    else:
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
    with atomic_write(path) as file:
        file.write(buffer.getvalue())


def summary(array: Array) -> dict[str, Any]:
    """Type, and smallest, mean and largest element."""
    found: dict[str, Any] = {"type": str(type_of(array))}
    if array.size:
        found |= {"min": float(array.min()), "mean": float(array.mean()), "max": float(array.max())}
    return found


def plain(facts: Any) -> Any:
    """``facts`` as strict JSON has them: null for a number that is not finite."""
    if isinstance(facts, dict):
        return {name: plain(value) for name, value in facts.items()}
    if isinstance(facts, list | tuple):
        return [plain(item) for item in facts]
    return None if isinstance(facts, float) and not math.isfinite(facts) else facts
