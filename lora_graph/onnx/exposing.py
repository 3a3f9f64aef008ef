"""A model that gives what it computes on the way as well, to look into how it runs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from lora_graph.ir.types import TensorType
from lora_graph.onnx.source import ModelSource, open_model
from lora_graph.onnx.tensors import read_tensor


def computed_names(source: ModelSource) -> set[str]:
    """The names of all that the nodes of a model compute."""
    return {name for node in open_model(source).model.graph.node for name in node.output if name}


def exposed(source: ModelSource, values: Mapping[str, TensorType]) -> onnx.ModelProto:
    """The model with the values of these names and types as further outputs, and all of its data in it.

    Its functions are written out, so that names inside them are those that reading the model gives.
    """
    opened = open_model(source)
    model = onnx.ModelProto()
    model.CopyFrom(opened.model)
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            array = np.ascontiguousarray(read_tensor(tensor, opened.folder, opened.label))
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    known = {item.name for item in model.graph.output}
    for name, kind in values.items():
        if name not in known:
            elem_type = onnx.helper.np_dtype_to_tensor_dtype(kind.dtype)
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, elem_type, [None] * kind.rank))
    return model
