"""Training data: arrays, an .npz file, or an iterable of batches, as seeded batches."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile, is_zipfile

import numpy as np

from lora_graph.errors import LoadError
from lora_graph.ir.types import Array
from lora_graph.layers.interface import each

Inputs = Any
"""An array, or a dict of arrays by name for a model with several inputs."""

NAMES = (("x", "y"), ("x", "t"))
INPUTS, TARGETS, WEIGHTS = "inputs", "targets", "weights"
"""The names under which an .npz file may hold its arrays: these, a pair of NAMES, or the inputs by their own names."""


class Batch(NamedTuple):
    """Samples to train on: inputs, targets and, if not all count alike, how much each weighs."""

    inputs: Inputs
    targets: Array
    weights: Array | None = None
    held: Mapping[str, Array] | None = None
    """What :meth:`TrainingStep.hold` computed from these inputs, by name."""

    @classmethod
    def of(cls, given: Any) -> Batch:
        """(inputs, targets) or (inputs, targets, weights) as arrays; TypeError for anything else."""
        if not isinstance(given, tuple | list) or len(given) not in (2, 3):
            what = f"{len(given)} things" if isinstance(given, tuple | list) else f"a {type(given).__name__}"
            raise TypeError(f"a batch must be (inputs, targets) or (inputs, targets, weights), got {what}")
        inputs, targets, *rest = given
        weights = np.asarray(rest[0]) if rest and rest[0] is not None else None
        return cls(each(inputs, np.asarray), np.asarray(targets), weights)


@dataclass(frozen=True)
class Arrays:
    """Samples held in memory, shuffled anew in each epoch."""

    samples: Batch
    batch_size: int
    shuffle: bool = True

    def __post_init__(self) -> None:
        inputs, targets, weights, _ = self.samples
        given = dict(inputs) if isinstance(inputs, Mapping) else {"": inputs}
        named = {f"inputs {name!r}" if name else "inputs": array for name, array in given.items()}
        if weights is not None:
            named[WEIGHTS] = weights
        for name, array in named.items():
            if not array.ndim or not targets.ndim or len(array) != len(targets):
                what = "one weight per target" if name == WEIGHTS else "one target per input"
                raise ValueError(f"data must hold {what}, got {name} {array.shape} and targets {targets.shape}")
        if not given or not len(targets):
            raise ValueError("data must hold at least one sample")

    def epoch(self, seed: int, number: int) -> Iterator[Batch]:
        count = len(self.samples.targets)
        order = np.random.default_rng([seed, number]).permutation(count) if self.shuffle else np.arange(count)
        for start in range(0, count, self.batch_size):
            yield self.part(order[start : start + self.batch_size])

    def part(self, chosen: Any) -> Batch:
        """The samples with these numbers."""
        inputs, targets, weights, held = self.samples
        return Batch(
            each(inputs, itemgetter(chosen)),
            targets[chosen],
            None if weights is None else weights[chosen],
            None if held is None else {name: array[chosen] for name, array in held.items()},
        )

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.samples.targets) // self.batch_size)


@dataclass(frozen=True)
class Batches:
    """Batches that come as they are, in the order of the iterable."""

    batches: Iterable[Any]

    def epoch(self, seed: int, number: int) -> Iterator[Batch]:
        for item in self.batches:
            yield Batch.of(item)

    def __len__(self) -> int:
        """Batches in an epoch, 0 where that is not known."""
        return len(self.batches) if isinstance(self.batches, Sized) else 0


Data = Arrays | Batches


def data_of(data: Any, batch_size: int, epochs: int, shuffle: bool = True) -> Data:
    """What ``lg.fit`` takes as data: ``(inputs, targets)`` or ``(inputs, targets, weights)``, a path to an .npz file,
    or an iterable of batches alike."""
    if isinstance(data, str | Path):
        return Arrays(read_npz(data), batch_size, shuffle)
    if isinstance(data, tuple) and len(data) in (2, 3) and not isinstance(data[0], tuple):
        return Arrays(Batch.of(data), batch_size, shuffle)
    if not isinstance(data, Iterable) or isinstance(data, dict):
        given = type(data).__name__
        raise TypeError(f"data must be (inputs, targets), an .npz path or an iterable of batches, got a {given}")
    if isinstance(data, Iterator) and epochs > 1:
        raise ValueError("data is an iterator that ends after one epoch: pass a list, or epochs=1")
    return Batches(data)


def read_npz(path: str | Path) -> Batch:
    """The inputs, targets and weights in an .npz file; nothing in it is ever unpickled."""
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
    weights = arrays.pop(WEIGHTS, None)
    for inputs, targets in ((INPUTS, TARGETS), *NAMES):
        if inputs in arrays and targets in arrays and (targets == TARGETS or TARGETS not in arrays):
            return Batch(arrays[inputs], arrays[targets], weights)
    if TARGETS in arrays and len(arrays) > 1:
        return Batch({name: array for name, array in arrays.items() if name != TARGETS}, arrays[TARGETS], weights)
    raise LoadError(
        f"{path}: must hold the arrays 'inputs' and 'targets' (or 'x' and 'y'), or 'targets' and inputs by name, and "
        f"may hold 'weights'; it holds {listed}"
    )
