"""Parameters by name and as one vector, for whatever has slots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lora_graph import checks
from lora_graph.ir.types import Array, TensorType, type_of


@dataclass
class Slot:
    """One parameter of a layer. Arrays are replaced, never written to, so that whoever holds one keeps it."""

    array: Array
    trainable: bool

    @property
    def type(self) -> TensorType:
        return type_of(self.array)


class Parameters:
    """What follows from ``slots``: the state, access by name, and the trainable parameters as one flat vector."""

    dtype: np.dtype[Any]
    layer_name: str

    def slots(self) -> dict[str, tuple[Slot, bool]]:
        """Every parameter by name, in declaration order, and whether it trains."""
        raise NotImplementedError

    @property
    def state(self) -> dict[str, Array]:
        """The arrays that the graph's parameters name."""
        return {label: slot.array for label, (slot, _) in self.slots().items()}

    def assign(self, arrays: Mapping[str, Array]) -> None:
        """Take new arrays for some parameters, as they are; the trainer's way of handing over its results."""
        slots = self.slots()
        for label, array in arrays.items():
            slots[label][0].array = array

    def get_parameter_names(self) -> list[str]:
        """The names of all parameters, in declaration order."""
        return list(self.slots())

    def get_parameter(self, name: str) -> Array:
        """A copy of the parameter ``name``; ValueError naming those there are."""
        return self._labelled(name).array.copy()

    def get_parameter_shape(self, name: str) -> tuple[int, ...]:
        """The shape of the parameter ``name``; ValueError naming those there are."""
        return self._labelled(name).array.shape

    def set_parameter(self, name: str, value: npt.ArrayLike) -> None:
        """Replace the parameter ``name``; ValueError if the shape differs."""
        slot = self._labelled(name)
        array = checks.numeric(name, value, slot.array.dtype)
        if array.shape != slot.array.shape:
            raise ValueError(f"{name} must have shape {slot.array.shape}, got {array.shape}")
        slot.array = np.array(array)

    def _labelled(self, name: str) -> Slot:
        slots = self.slots()
        if name not in slots:
            raise ValueError(f"{self.layer_name} has no parameter {name!r}; it has {', '.join(slots) or 'none'}")
        return slots[name][0]

    def _trainable(self) -> dict[str, Slot]:
        return {label: slot for label, (slot, trains) in self.slots().items() if trains}

    def trainable_parameters(self) -> dict[str, Array]:
        """Copies of the parameters that train, by name."""
        return {label: slot.array.copy() for label, slot in self._trainable().items()}

    @property
    def parameter_count(self) -> int:
        """How many numbers train."""
        return sum(slot.array.size for slot in self._trainable().values())

    def get_parameters(self) -> Array:
        """The trainable parameters as one flat copy, row-major, in declaration order."""
        return self._flat([slot.array for slot in self._trainable().values()])

    def set_parameters(self, vector: npt.ArrayLike) -> None:
        """Set the trainable parameters from one flat vector; ValueError if its length is not ``parameter_count``."""
        flat = checks.numeric("vector", vector, self.dtype)
        slots = self._trainable()
        count = sum(slot.array.size for slot in slots.values())
        if flat.shape != (count,):
            raise ValueError(f"vector must have shape ({count},), got {flat.shape}")
        at = 0
        for slot in slots.values():
            part = flat[at : at + slot.array.size]
            slot.array, at = np.array(part, slot.array.dtype).reshape(slot.array.shape), at + slot.array.size

    def _flat(self, arrays: list[Array]) -> Array:
        return np.concatenate([array.ravel() for array in arrays]) if arrays else np.zeros(0, self.dtype)
