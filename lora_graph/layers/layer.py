"""The base class of every layer and adapter: parameters, children, modes; the rest follows from the graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt

from lora_graph import checks
from lora_graph.ir.dims import Dim, Shape, shape_of
from lora_graph.ir.graph import Graph
from lora_graph.ir.types import Array, TensorType, show, type_of
from lora_graph.ir.value import Value
from lora_graph.layers.runner import Runner
from lora_graph.layers.trace import Context, Place, trace
from lora_graph.layers.weights import WeightReport, load_into, save_weights

L = TypeVar("L", bound="Layer")


@dataclass
class Slot:
    """One parameter of a layer. Arrays are replaced, never written to, so that whoever holds one keeps it."""

    array: Array
    trainable: bool

    @property
    def type(self) -> TensorType:
        return type_of(self.array)


class Layer:
    """A function with parameters, described by the graph that ``build`` makes.

    A subclass declares parameters with :meth:`add_parameter`, children with :meth:`add_child`, and implements
    ``build(ctx, x)``. ``input_shape`` and ``output_shape`` are per-sample shapes; leading axes are batch.
    """

    supports_training: bool = True
    supports_jit_compilation: bool = True

    def __init__(
        self,
        *,
        input_shape: Sequence[int | str | Dim],
        output_shape: Sequence[int | str | Dim],
        dtype: npt.DTypeLike = np.float32,
        layer_name: str | None = None,
        rng: checks.Seed = None,
    ):
        self.input_shape: Shape = shape_of(input_shape)
        self.output_shape: Shape = shape_of(output_shape)
        self.dtype = checks.float_dtype(dtype)
        self.layer_name = layer_name or type(self).__name__
        self.rng = checks.generator(rng)
        self._slots: dict[str, Slot] = {}
        self._children: dict[str, Layer] = {}
        self._frozen = False
        self._training = True
        self._runner = Runner(self)

    def build(self, ctx: Context, x: Value) -> Value:
        """The output for the input ``x``, as a Value. The one method every layer has."""
        raise NotImplementedError(f"{type(self).__name__} must implement build(ctx, x)")

    # -- parameters and children ---------------------------------------------------------------------------------

    def add_parameter(self, name: str, value: npt.ArrayLike, trainable: bool = True) -> None:
        """Declare a parameter with its initial value; floats take the dtype of the layer."""
        self._check_new(name)
        array = np.asarray(value)
        if array.dtype.kind not in "fiub":
            raise TypeError(f"parameter {name!r} must be numeric, got {array.dtype}")
        if trainable and array.dtype.kind != "f":
            raise TypeError(f"parameter {name!r} is trainable and so must be of floats, got {array.dtype}")
        self._slots[name] = Slot(np.array(array, self.dtype if array.dtype.kind == "f" else array.dtype), trainable)

    def add_child(self, name: str, layer: L) -> L:
        """Declare a layer whose parameters belong to this one, under ``name``."""
        if not isinstance(layer, Layer):
            raise TypeError(f"child {name!r} must be a Layer, got {layer!r}")
        self._check_new(name)
        self._children[name] = layer
        return layer

    def _check_new(self, name: str) -> None:
        if not isinstance(name, str) or not name or "." in name:
            raise ValueError(f"a parameter or child name is a non-empty string without dots, got {name!r}")
        if name in self._slots or name in self._children:
            raise ValueError(f"{self.layer_name} already has a parameter or child called {name!r}")

    def slot(self, name: str) -> Slot:
        if name not in self._slots:
            raise KeyError(f"{self.layer_name} has no parameter {name!r}; it has {sorted(self._slots)}")
        return self._slots[name]

    @property
    def children(self) -> dict[str, Layer]:
        return dict(self._children)

    @property
    def input_dtype(self) -> np.dtype[Any]:
        """The dtype inputs are cast to."""
        return self.dtype

    def places(self) -> dict[Layer, Place]:
        """Every layer of the tree with its path, freezing and mode. A layer met twice keeps its first path."""
        found: dict[Layer, Place] = {}
        for place, layer in self._walk("", False, None):
            known = found.get(layer)
            if known is None:
                found[layer] = place
            elif known.frozen and not place.frozen:
                found[layer] = Place(known.path, False, known.training)
        return found

    def _walk(self, path: str, frozen: bool, training: bool | None) -> Iterator[tuple[Place, Layer]]:
        """This layer and those below it, given the freezing and the mode that the layers above impose."""
        mode = self._training if training is None else training
        yield Place(path, frozen or self._frozen, mode), self
        for name, child in self._children.items():
            below = f"{path}.{name}" if path else name
            yield from child._walk(below, frozen or self._freezes(name), self._mode_of(name, training))

    def _freezes(self, child: str) -> bool:
        """Whether this layer holds the parameters of a child fixed, whatever the child says."""
        return False

    def _mode_of(self, child: str, training: bool | None) -> bool | None:
        """The mode this layer imposes on a child; None leaves it its own."""
        return training

    def _slots_by_label(self) -> dict[str, tuple[Slot, bool]]:
        """Every parameter of the tree by name, and whether it trains here."""
        found: dict[str, tuple[Slot, bool]] = {}
        for layer, place in self.places().items():
            for name, slot in layer._slots.items():
                label = place.label(name)
                if label in found:
                    raise ValueError(f"two parameters of {self.layer_name} are called {label!r}")
                found[label] = (slot, slot.trainable and not place.frozen)
        return found

    @property
    def state(self) -> dict[str, Array]:
        """The arrays that the graph's parameters name."""
        return {label: slot.array for label, (slot, _) in self._slots_by_label().items()}

    def assign(self, arrays: Mapping[str, Array]) -> None:
        """Take new arrays for some parameters, as they are; the trainer's way of handing over its results."""
        slots = self._slots_by_label()
        for label, array in arrays.items():
            slots[label][0].array = array

    def _trainable(self) -> dict[str, Slot]:
        return {label: slot for label, (slot, trains) in self._slots_by_label().items() if trains}

    def trainable_parameters(self) -> dict[str, Array]:
        """Copies of the parameters that train, by name."""
        return {label: slot.array.copy() for label, slot in self._trainable().items()}

    @property
    def parameter_count(self) -> int:
        """How many numbers train."""
        return sum(slot.array.size for slot in self._trainable().values())

    def get_parameters(self) -> Array:
        """The trainable parameters as one flat copy, row-major, in declaration order."""
        return _flatten([slot.array for slot in self._trainable().values()], self.dtype)

    def set_parameters(self, vector: npt.ArrayLike) -> None:
        """Set the trainable parameters from one flat vector; ValueError if its length is not ``parameter_count``."""
        flat = checks.numeric("vector", vector, self.dtype)
        if flat.shape != (self.parameter_count,):
            raise ValueError(f"vector must have shape ({self.parameter_count},), got {flat.shape}")
        at = 0
        for slot in self._trainable().values():
            slot.array = flat[at : at + slot.array.size].reshape(slot.array.shape).astype(slot.array.dtype, copy=True)
            at += slot.array.size

    def get_parameter_names(self) -> list[str]:
        return list(self._slots_by_label())

    def get_parameter(self, name: str) -> Array:
        """A copy of the parameter ``name``."""
        return self._labelled(name).array.copy()

    def get_parameter_shape(self, name: str) -> tuple[int, ...]:
        return self._labelled(name).array.shape

    def set_parameter(self, name: str, value: npt.ArrayLike) -> None:
        """Replace the parameter ``name``; ValueError if the shape differs."""
        slot = self._labelled(name)
        array = checks.numeric(name, value, slot.array.dtype)
        if array.shape != slot.array.shape:
            raise ValueError(f"{name} must have shape {slot.array.shape}, got {array.shape}")
        slot.array = np.array(array)

    def _labelled(self, name: str) -> Slot:
        slots = self._slots_by_label()
        if name not in slots:
            raise ValueError(f"{self.layer_name} has no parameter {name!r}; it has {', '.join(slots) or 'none'}")
        return slots[name][0]

    # -- modes ----------------------------------------------------------------------------------------------------

    def freeze(self) -> Self:
        """Hold all parameters fixed: no gradient, no update."""
        return self._set_frozen(True)

    def unfreeze(self) -> Self:
        return self._set_frozen(False)

    def _set_frozen(self, flag: bool) -> Self:
        self._frozen = flag
        for name, child in self._children.items():
            if not self._owns_mode(name):
                child._set_frozen(flag)
        return self

    @property
    def is_training(self) -> bool:
        return self._training

    @is_training.setter
    def is_training(self, flag: bool) -> None:
        self.set_training(flag)

    def set_training(self, flag: bool) -> Self:
        """Set the mode of this layer and its children; TypeError unless ``flag`` is a bool."""
        if not isinstance(flag, bool | np.bool_):
            raise TypeError(f"flag must be a bool, got {flag!r}")
        self._training = bool(flag)
        for name, child in self._children.items():
            if not self._owns_mode(name):
                child.set_training(flag)
        return self

    def _owns_mode(self, child: str) -> bool:
        """Whether a child keeps its own mode and freezing, so that this layer's are its own affair."""
        return False

    def train(self) -> Self:
        return self.set_training(True)

    def eval(self) -> Self:
        return self.set_training(False)

    # -- running --------------------------------------------------------------------------------------------------

    def forward(self, x: npt.ArrayLike) -> Array:
        """The output for ``x``, in the current mode; leading axes are batch and kept."""
        return self._runner.forward(x)

    __call__ = forward

    def backward(self, output_gradient: npt.ArrayLike) -> Array:
        """The gradient with respect to the last input; keeps the parameter gradients, replacing older ones.

        RuntimeError before any forward, or after ``reset_state``.
        """
        return self._runner.backward(output_gradient)

    def update_parameters(self, learning_rate: float) -> None:
        """One step of gradient descent, p ← p - η g, with the kept gradients, which it drops."""
        rate = checks.number("learning_rate", learning_rate)
        gradients = self._runner.take_gradients()
        for label, slot in self._trainable().items():
            if label in gradients:
                slot.array = slot.array - slot.array.dtype.type(rate) * gradients[label]

    def get_parameter_gradients(self) -> Array:
        """The gradients as one flat copy, in the order of ``get_parameters``; RuntimeError if there are none."""
        gradients = self._runner.gradients()
        parts = [gradients.get(label, np.zeros_like(slot.array)) for label, slot in self._trainable().items()]
        return _flatten(parts, self.dtype)

    def clear_gradients(self) -> None:
        self._runner.clear_gradients()

    def reset_state(self) -> None:
        """Drop gradients, the last input, and what was drawn for it."""
        self._runner.reset()
        for child in self._children.values():
            child.reset_state()

    def close(self) -> None:
        """Release cached plans."""
        self._runner.reset()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- graphs ---------------------------------------------------------------------------------------------------

    def to_graph(self, input_shape: Sequence[int | str | Dim] | None = None) -> Graph:
        """The evaluation graph, from ``x`` of ``input_shape`` (default ``("batch", *self.input_shape)``) to ``y``."""
        return trace(self, input_shape, training=False).graph

    def export_computation_graph(self, input_nodes: list[Value]) -> Value:
        """Append the graph's inputs to the list ``input_nodes`` and return the output Value (evaluation semantics)."""
        if not isinstance(input_nodes, list):
            raise TypeError(f"input_nodes must be a list to append to, got {input_nodes!r}")
        graph = self.to_graph()
        input_nodes.extend(graph.inputs)
        return graph.outputs["y"]

    # -- files and reports ----------------------------------------------------------------------------------------

    def validate_weights(self, weights: Mapping[str, npt.ArrayLike]) -> WeightReport:
        """What :meth:`load_weights` would do, without doing it."""
        return WeightReport.compare(weights, {k: slot.array for k, (slot, _) in self._slots_by_label().items()})

    def load_weights(self, source: Mapping[str, npt.ArrayLike] | str | Path, strict: bool = True) -> WeightReport:
        """Load parameters by name from a mapping or a safetensors file: all of them or none.

        ``strict`` refuses missing and unexpected names; wrong shapes are refused always (LoadError).
        """
        return load_into(self, source, strict)

    def save_weights(self, path: str | Path) -> None:
        """Write all parameters to a safetensors file, atomically."""
        save_weights(self.state, path)

    def get_diagnostics(self) -> dict[str, str]:
        """What this layer is and how large, as strings."""
        slots = self._slots_by_label()
        total = sum(slot.array.size for slot, _ in slots.values())
        trainable = self.parameter_count
        return {
            "layer_type": type(self).__name__,
            "layer_name": self.layer_name,
            "input_shape": show(self.input_shape),
            "output_shape": show(self.output_shape),
            "dtype": self.dtype.name,
            "total_parameters": str(total),
            "trainable_parameters": str(trainable),
            "trainable_percent": f"{100 * trainable / total:.2f}" if total else "0.00",
            "mode": "training" if self._training else "evaluation",
        }

    def __repr__(self) -> str:
        return f"<{self.layer_name}: {show(self.input_shape)} -> {show(self.output_shape)}>"


def _flatten(arrays: Sequence[Array], dtype: np.dtype[Any]) -> Array:
    return np.concatenate([array.ravel() for array in arrays]) if arrays else np.zeros(0, dtype)
