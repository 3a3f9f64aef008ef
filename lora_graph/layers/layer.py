"""The base class of every layer and adapter: a tree of parameters and a graph; the rest follows from these."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt

from lora_graph import checks
from lora_graph.display import Shown
from lora_graph.ir.graph import Graph
from lora_graph.ir.types import Array, TensorType
from lora_graph.ir.value import Value
from lora_graph.layers.interface import INPUT, OUTPUT, Axes, Interface, alone, described, ports, shaped
from lora_graph.layers.parameters import Parameters, Slot
from lora_graph.layers.runner import Runner
from lora_graph.layers.trace import Context, Place, trace
from lora_graph.layers.tree import tree
from lora_graph.layers.weights import WeightReport, load_into, save_weights

L = TypeVar("L", bound="Layer")


class Layer(Parameters, Interface, Shown):
    """A function with parameters, described by the graph that ``build`` makes.

    A subclass declares parameters with :meth:`add_parameter`, children with :meth:`add_child`, and implements
    ``build(ctx, x)``. ``input_shape`` and ``output_shape`` are per-sample shapes; leading axes are batch. Where
    they are dicts of shapes by name, the layer has several inputs or outputs, and ``build`` takes or gives a dict.
    """

    supports_training: bool = True
    supports_jit_compilation: bool = True

    def __init__(
        self,
        *,
        input_shape: Axes | Mapping[str, Axes],
        output_shape: Axes | Mapping[str, Axes],
        dtype: npt.DTypeLike = np.float32,
        layer_name: str | None = None,
        rng: checks.Seed = None,
    ):
        self.input_shapes = ports(input_shape, INPUT)
        self.output_shapes = ports(output_shape, OUTPUT)
        self.dtype = checks.float_dtype(dtype)
        self.layer_name = layer_name or type(self).__name__
        self.rng = checks.generator(rng)
        self._slots: dict[str, Slot] = {}
        self._children: dict[str, Layer] = {}
        self._frozen = False
        self._training = True
        self._runner = Runner(self)

    def build(self, ctx: Context, x: Any) -> Any:
        """The output for the input ``x``, as a Value. The one method every layer has."""
        raise NotImplementedError(f"{type(self).__name__} must implement build(ctx, x)")

    def bypass_input(self, x: Value) -> Value:
        """What a bypass beside this layer starts from: ``x``, or the part of it that the output stands for."""
        return x

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
        if self in layer.places():
            raise ValueError(f"{layer.layer_name} cannot be a child of {self.layer_name}, which is a part of it")
        self._children[name] = layer
        return layer

    def _check_new(self, name: str) -> None:
        if "_slots" not in self.__dict__:
            raise RuntimeError(f"{type(self).__name__} must call super().__init__(...) before it declares {name!r}")
        if not isinstance(name, str) or not name or "." in name:
            raise ValueError(f"a parameter or child name is a non-empty string without dots, got {name!r}")
        if name in self._slots or name in self._children:
            raise ValueError(f"{self.layer_name} already has a parameter or child called {name!r}")

    def slot(self, name: str) -> Slot:
        """The layer's own parameter ``name``; ValueError naming those there are."""
        if name not in self._slots:
            raise ValueError(f"{self.layer_name} has no parameter {name!r}; it has {sorted(self._slots)}")
        return self._slots[name]

    @property
    def own(self) -> tuple[str, ...]:
        """The names of the layer's own parameters, those of children left out."""
        return tuple(self._slots)

    @property
    def children(self) -> dict[str, Layer]:
        """The layers declared with :meth:`add_child`, by name."""
        return dict(self._children)

    @property
    def branches(self) -> dict[str, Layer]:
        """The children that change what others compute: those of an adapter beside its base."""
        return {}

    def places(self) -> dict[Layer, Place]:
        """Every layer of the tree with its path, freezing and mode.

        A layer met twice keeps its first path, and is frozen only if it is so at each.
        """
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

    def slots(self, places: Mapping[Layer, Place] | None = None) -> dict[str, tuple[Slot, bool]]:
        """Every parameter of the tree by name, and whether it trains; ``places`` where they are known already."""
        found: dict[str, tuple[Slot, bool]] = {}
        for layer, place in (self.places() if places is None else places).items():
            for name, slot in layer._slots.items():
                label = place.label(name)
                if label in found:
                    raise ValueError(f"two parameters of {self.layer_name} are called {label!r}")
                found[label] = (slot, slot.trainable and not place.frozen)
        return found

    # -- modes ----------------------------------------------------------------------------------------------------

    def freeze(self) -> Self:
        """Hold all parameters fixed: no gradient, no update."""
        return self._set_frozen(True)

    def unfreeze(self) -> Self:
        """Let the parameters train again, those of children included."""
        return self._set_frozen(False)

    def _set_frozen(self, flag: bool) -> Self:
        self._frozen = flag
        for name, child in self._children.items():
            if not self._is_guest(name):
                child._set_frozen(flag)
        return self

    @property
    def is_training(self) -> bool:
        """The mode; settable."""
        return self._training

    @is_training.setter
    def is_training(self, flag: bool) -> None:
        self.set_training(flag)

    def set_training(self, flag: bool) -> Self:
        """Set the mode of this layer and its children; TypeError unless ``flag`` is a bool."""
        self._training = checks.flag("flag", flag)
        for name, child in self._children.items():
            if not self._is_guest(name):
                child.set_training(self._training)
        return self

    def train(self) -> Self:
        """Set training mode."""
        return self.set_training(True)

    def eval(self) -> Self:
        """Set evaluation mode."""
        return self.set_training(False)

    def _is_guest(self, child: str) -> bool:
        """Whether a child keeps its own mode and freezing, because others may use it as well."""
        return False

    def _freezes(self, child: str) -> bool:
        """Whether this layer holds the parameters of a child fixed, whatever the child says."""
        return False

    def _mode_of(self, child: str, training: bool | None) -> bool | None:
        """The mode this layer imposes on a child, given what is imposed on itself; None leaves it its own."""
        return training

    # -- running --------------------------------------------------------------------------------------------------

    def forward(self, x: Any) -> Any:
        """The output for ``x``, in the current mode; leading axes are batch and kept.

        A layer with several inputs takes a dict of arrays by name, one with several outputs gives such a dict.
        """
        if isinstance(x, Value):
            raise TypeError("x is a Value, not an array: inside build, a child is called with ctx.call(child, x)")
        return self._runner.forward(x)

    __call__ = forward

    def backward(self, output_gradient: Any) -> Any:
        """The gradient with respect to the last input; keeps the parameter gradients, replacing older ones.

        Where there are several outputs it takes a dict of gradients by name, in which some may be missing; where there
        are several inputs it gives a dict of the gradients of those that are floats.
        RuntimeError before any forward, or after ``reset_state``.
        """
        return self._runner.backward(output_gradient)

    def update_parameters(self, learning_rate: float) -> None:
        """One step of gradient descent, p ← p - η g, with the kept gradients, which it drops."""
        rate = checks.number("learning_rate", learning_rate)
        for slot, gradient in self._with_gradients():
            slot.array = slot.array - slot.array.dtype.type(rate) * gradient
        self.clear_gradients()

    def get_parameter_gradients(self) -> Array:
        """The gradients as one flat copy, in the order of ``get_parameters``; RuntimeError if there are none."""
        return self._flat([gradient for _, gradient in self._with_gradients()])

    def _with_gradients(self) -> list[tuple[Slot, Array]]:
        found = self._runner.gradients()
        slots = self._trainable()
        late = [label for label in slots if label not in found]
        if late:
            raise RuntimeError(f"{late[0]} was frozen when forward ran: call forward and backward again")
        return [(slot, found[label]) for label, slot in slots.items()]

    def clear_gradients(self) -> None:
        """Drop the kept gradients."""
        self._runner.clear_gradients()

    def reset_state(self) -> None:
        """Drop gradients, the last input, and what was drawn for it."""
        self._runner.reset()
        for child in self._children.values():
            child.reset_state()

    def close(self) -> None:
        """Release cached plans with their buffers, and all that :meth:`reset_state` drops; running makes new ones."""
        self.reset_state()
        for layer in self.places():
            layer._runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- graphs ---------------------------------------------------------------------------------------------------

    def to_graph(self, input_shape: Axes | Mapping[str, Axes] | None = None) -> Graph:
        """The evaluation graph, for inputs of ``input_shape`` (by default a batch of samples), from ``x`` to ``y``."""
        return trace(self, shaped(self, input_shape), training=False).graph

    @property
    def outputs(self) -> dict[str, TensorType]:
        """The types of the outputs for a batch of samples, by name."""
        return {name: value.type for name, value in self.to_graph().outputs.items()}

    def export_computation_graph(self, input_nodes: list[Value]) -> Any:
        """Append the graph's inputs to the list ``input_nodes`` and return the output Value (evaluation semantics)."""
        if not isinstance(input_nodes, list):
            raise TypeError(f"input_nodes must be a list to append to, got {input_nodes!r}")
        graph = self.to_graph()
        input_nodes.extend(graph.inputs)
        return alone(graph.outputs)

    # -- files and reports ----------------------------------------------------------------------------------------

    def validate_weights(self, weights: Mapping[str, npt.ArrayLike]) -> WeightReport:
        """What :meth:`load_weights` would do, without doing it."""
        return WeightReport.compare(weights, self.state)

    def load_weights(self, source: Mapping[str, npt.ArrayLike] | str | Path, strict: bool = True) -> WeightReport:
        """Load parameters by name from a mapping or a safetensors file: all of them or none.

        ``strict`` refuses missing and unexpected names; wrong shapes are refused always (LoadError).
        """
        return load_into(self, source, checks.flag("strict", strict))

    def save_weights(self, path: str | Path) -> None:
        """Write all parameters to a safetensors file, atomically."""
        save_weights(self.state, path)

    def get_diagnostics(self) -> dict[str, str]:
        """What this layer is and how large, as strings."""
        total = sum(slot.array.size for slot, _ in self.slots().values())
        trainable = self.parameter_count
        return {
            "layer_type": type(self).__name__,
            "layer_name": self.layer_name,
            "input_shape": described(self.input_shapes),
            "output_shape": described(self.output_shapes),
            "dtype": self.dtype.name,
            "total_parameters": str(total),
            "trainable_parameters": str(trainable),
            "trainable_percent": f"{100 * trainable / total:.2f}" if total else "0.00",
            "mode": "training" if self._training else "evaluation",
        }

    def __repr__(self) -> str:
        return f"<{self.layer_name}: {described(self.input_shapes)} -> {described(self.output_shapes)}>"

    def __str__(self) -> str:
        return tree(self)
