"""ONNX's backend interface on the NumPy interpreter, which lets ONNX's own test suite be run against it.

``python -m lora_graph.onnx.backend --report`` runs the suite and tells what passes and why the rest does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx.backend.base import Backend, BackendRep

from lora_graph.errors import LoadError
from lora_graph.interpret import compile_graph
from lora_graph.ir.opaque import Opaque
from lora_graph.ir.types import Array
from lora_graph.onnx.importer import Imported, read_model
from lora_graph.onnx.source import OPSETS


class LoraGraphBackend(Backend):  # type: ignore[misc]
    """Runs ONNX models of opset 9 to 26 on the CPU. LoadError, naming the node, for one that cannot be read."""

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device.split(":")[0] == "CPU"

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> LoraGraphRep:
        """``model``, ready to run. ValueError for another device than the CPU."""
        if not cls.supports_device(device):
            raise ValueError(f"device must be 'CPU', got {device!r}")
        return LoraGraphRep(model)

    @classmethod
    def run_node(
        cls, node: onnx.NodeProto, inputs: Any, device: str = "CPU", outputs_info: Any = None, **kwargs: Any
    ) -> tuple[Array, ...]:
        """The results of one node at ``opset_version``, by default the latest one."""
        arrays = [np.asarray(item) for item in inputs]
        names = [name for name in node.input if name]
        if len(names) != len(arrays):
            raise ValueError(f"inputs must be one array for each of {names}, got {len(arrays)}")
        given = [
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in dict(zip(names, arrays, strict=True)).items()
        ]
        results = [onnx.helper.make_empty_tensor_value_info(name) for name in node.output if name]
        opset = onnx.helper.make_opsetid("", kwargs.get("opset_version", OPSETS[-1]))
        model = onnx.helper.make_model(onnx.helper.make_graph([node], "node", given, results), opset_imports=[opset])
        return cls.prepare(model, device).run(dict(zip(names, arrays, strict=True)))


class LoraGraphRep(BackendRep):  # type: ignore[misc]
    """A model that is ready to run.

    Where shapes, axes or the like depend on what is fed, no type of the graph would be known; the model is then read
    for each run, with the fed shapes and with every input of at most one axis taken as a constant.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        held = {tensor.name for tensor in model.graph.initializer}
        self.input_names = [item.name for item in model.graph.input if item.name not in held]
        self.output_names = [item.name for item in model.graph.output]
        try:
            self._general: Prepared | None = Prepared(read_model(model))
        except LoadError:
            self._general = None

    def run(self, inputs: Sequence[Any] | Mapping[str, Any], **kwargs: Any) -> tuple[Array, ...]:
        """The outputs in order, for the inputs in order or by name.

        LoadError, naming the node, for a model that cannot be read even for these inputs.
        """
        feeds = self._feeds(inputs)
        general = self._general
        if general is None:
            model = specialized(self._model, feeds)
            general, feeds = Prepared(read_model(model)), {item.name: feeds[item.name] for item in model.graph.input}
        outputs = general.run(feeds)
        return tuple(outputs[name] for name in self.output_names)

    def _feeds(self, inputs: Sequence[Any] | Mapping[str, Any]) -> dict[str, Array]:
        if isinstance(inputs, Mapping):
            return {name: np.asarray(array) for name, array in inputs.items()}
        if len(inputs) != len(self.input_names):
            raise ValueError(f"inputs must be one array for each of {self.input_names}, got {len(inputs)}")
        return {name: np.asarray(array) for name, array in zip(self.input_names, inputs, strict=True)}


class Prepared:
    """A model that was read, with what depends on its weights alone computed.

    LoadError for one with ops that only ONNX Runtime can run: here NumPy alone computes.
    """

    def __init__(self, read: Imported) -> None:
        for value in read.graph.values:
            if isinstance(value.op, Opaque):
                raise LoadError(f"{value.op.label} is not supported: lora_graph only carries it along")
        self._program = compile_graph(read.graph, read.state)
        self._program.fix(read.state)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return self._program.run(feeds, {})


def specialized(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> onnx.ModelProto:
    """``model`` for these very feeds: their shapes are its inputs' types, and those of at most one axis are constant.

    Its inputs are the feeds that are left.
    """
    new = onnx.ModelProto()
    new.CopyFrom(model)
    del new.graph.input[:]
    for name, array in feeds.items():
        if array.ndim <= 1:
            new.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        else:
            kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            new.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, array.shape))
    return new


if __name__ == "__main__":
    from lora_graph.onnx.coverage import main

    main()
