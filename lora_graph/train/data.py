"""Training data: arrays, an .npz file, or an iterable of batches, as seeded batches."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, is_zipfile

import numpy as np

from lora_graph.errors import LoadError
from lora_graph.ir.types import Array
from lora_graph.layers.interface import each

Inputs = Any
"""An array, or a dict of arrays by name for a model with several inputs."""

Batch = tuple[Inputs, Array]
NAMES = (("x", "y"), ("x", "t"))
INPUTS, TARGETS = "inputs", "targets"
"""The names under which an .npz file may hold its arrays: these, a pair of NAMES, or the inputs by their own names."""


@dataclass(frozen=True)
class Arrays:
    """Samples held in memory, shuffled anew in each epoch."""

    inputs: Inputs
    targets: Array
    batch_size: int
    shuffle: bool = True

    def __post_init__(self) -> None:
        given = self.inputs if isinstance(self.inputs, Mapping) else {"": self.inputs}
        for name, array in given.items():
            if not array.ndim or not self.targets.ndim or len(array) != len(self.targets):
                which = f"inputs {name!r}" if name else "inputs"
                raise ValueError(
                    f"data must hold one target per input, got {which} {array.shape} and targets {self.targets.shape}"
                )
        if not given or not len(self.targets):
            raise ValueError("data must hold at least one sample")

    def epoch(self, seed: int, number: int) -> Iterator[Batch]:
        count = len(self.targets)
        order = np.random.default_rng([seed, number]).permutation(count) if self.shuffle else np.arange(count)
        for start in range(0, count, self.batch_size):
            chosen = order[start : start + self.batch_size]
            yield each(self.inputs, itemgetter(chosen)), self.targets[chosen]

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.targets) // self.batch_size)


@dataclass(frozen=True)
class Batches:
    """Batches that come as they are, in the order of the iterable."""

    batches: Iterable[Any]

    def epoch(self, seed: int, number: int) -> Iterator[Batch]:
        for item in self.batches:
            if not isinstance(item, tuple | list) or len(item) != 2:
                raise TypeError(f"each batch must be a pair (inputs, targets), got {type(item).__name__}")
            yield each(item[0], np.asarray), np.asarray(item[1])

    def __len__(self) -> int:
        """Batches in an epoch, 0 where that is not known."""
        return len(self.batches) if isinstance(self.batches, Sized) else 0


Data = Arrays | Batches


def data_of(data: Any, batch_size: int, epochs: int, shuffle: bool = True) -> Data:
    """What ``lg.fit`` takes as data: ``(inputs, targets)``, a path to an .npz file, or an iterable of batches."""
    if isinstance(data, str | Path):
        return Arrays(*read_npz(data), batch_size, shuffle)
    if isinstance(data, tuple) and len(data) == 2:
        return Arrays(each(data[0], np.asarray), np.asarray(data[1]), batch_size, shuffle)
    if not isinstance(data, Iterable) or isinstance(data, dict):
        given = type(data).__name__
        raise TypeError(f"data must be (inputs, targets), an .npz path or an iterable of batches, got a {given}")
    if isinstance(data, Iterator) and epochs > 1:
        raise ValueError("data is an iterator that ends after one epoch: pass a list, or epochs=1")
    return Batches(data)


def read_npz(path: str | Path) -> tuple[Inputs, Array]:
    """The inputs and targets in an .npz file; nothing in it is ever unpickled."""
    if not Path(path).is_file():
        raise LoadError(f"{path}: no such file")
    if not is_zipfile(path):
        raise LoadError(f"{path}: not an .npz file, or a damaged one")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: array for name in file.files if isinstance(array := file[name], np.ndarray)}
            listed = ", ".join(file.files) or "nothing"
    except (OSError, ValueError, TypeError, EOFError, BadZipFile, zlib.error) as error:
        raise LoadError(f"{path}: cannot be read as an .npz file: {error}") from error
    for inputs, targets in ((INPUTS, TARGETS), *NAMES):
        if inputs in arrays and targets in arrays and (targets == TARGETS or TARGETS not in arrays):
            return arrays[inputs], arrays[targets]
    if TARGETS in arrays and len(arrays) > 1:
        return {name: array for name, array in arrays.items() if name != TARGETS}, arrays[TARGETS]
    raise LoadError(
        f"{path}: must hold the arrays 'inputs' and 'targets' (or 'x' and 'y'), or 'targets' and inputs by name; "
        f"it holds {listed}"
    )
