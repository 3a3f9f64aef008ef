"""A model as the source of an onnxscript function."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from lora_graph.ir.types import Array
from lora_graph.onnx.attributes import shortest
from lora_graph.onnx.scopes import scope_of
from lora_graph.onnx.source import DEFAULT_DOMAINS, ModelSource, open_model
from lora_graph.onnx.tensors import dtype_of, read_tensor

INLINE = 1024
"""Elements that an array written out in the source may have."""
INDENT = "    "
RESERVED = {"op", "np", "onnx", "graph", "script", "tensor", "weights", "Opset", "opset", "float"}

HEADER = """\
import numpy as np
import onnx
from onnxscript import BFLOAT16, BOOL, DOUBLE, FLOAT, FLOAT16, INT8, INT16, INT32, INT64, UINT8, UINT16, UINT32, UINT64
from onnxscript import graph, script
from onnxscript.values import Opset

{opsets}
{weights}

def tensor(array):
    return onnx.numpy_helper.from_array(np.asarray(array))


"""
WEIGHTS = """\
weights = {{item.name: onnx.numpy_helper.to_array(item) for item in onnx.load({path!r}).graph.initializer}}
"""
FOOTER = """

if __name__ == "__main__":
    print(onnx.printer.to_text({name}.to_model_proto()))
"""


def script_of(source: ModelSource, weights: str = "model.onnx") -> str:
    """Python source that defines ``source`` as an onnxscript function; its ``to_model_proto()`` is the same model.

    Arrays of at most 1024 elements are written out, larger ones read from the file ``weights`` by name. Names become
    Python's; parameters that can be given at run time become constants. LoadError for what is no model, ValueError for
    what onnxscript has no form for.
    """
    opened = open_model(source)
    return _Script(opened.model, opened.folder, opened.label, weights).text()


class _Script:
    def __init__(self, model: onnx.ModelProto, folder: Path | None, label: str, weights: str) -> None:
        self._model, self._folder, self._label, self._weights = model, folder, label, weights
        self._names: dict[str, str] = {}
        self._taken = set(RESERVED)
        self._opsets = {entry.domain: entry.version for entry in model.opset_import}
        self._domains = {domain: f"opset{i}" for i, domain in enumerate(self._opsets) if domain not in DEFAULT_DOMAINS}
        self._taken.update(self._domains.values())
        self._large = False

    def text(self) -> str:
        graph = self._model.graph
        name = self._new(graph.name or "model")
        held = {item.name for item in graph.initializer}
        inputs = [item for item in graph.input if item.name not in held]
        signature = ", ".join(f"{self._name(item.name)}: {_type(item)}" for item in inputs)
        results = ", ".join(map(_type, graph.output))
        body = "\n".join(f"{INDENT}{line}".rstrip() for line in self._body(graph))
        result = results if len(graph.output) == 1 else f"({results})"
        function = f"@script(default_opset=op)\ndef {name}({signature}) -> {result}:\n{body}\n"
        loaded = WEIGHTS.format(path=self._weights) if self._large else ""
        return HEADER.format(opsets=self._imports(), weights=loaded) + function + FOOTER.format(name=name)

    def _imports(self) -> str:
        standard = next(version for domain, version in self._opsets.items() if domain in DEFAULT_DOMAINS)
        lines = [f'op = Opset("", {standard})']
        lines += [f"{name} = Opset({domain!r}, {self._opsets[domain]})" for domain, name in self._domains.items()]
        return "\n".join(lines)

    def _body(self, graph: onnx.GraphProto) -> Iterator[str]:
        for item in graph.initializer:
            array = read_tensor(item, self._folder, self._label)
            yield f"{self._name(item.name)} = op.Constant(value={self._array(array, item.name)})"
        scope = ""
        for node in graph.node:
            if scope_of(node) != scope:
                scope = scope_of(node)
                yield f"# {_printable(scope)}" if scope else ""
            yield from self._node(node)
        yield f"return {', '.join(self._name(item.name) for item in graph.output)}"

    def _node(self, node: onnx.NodeProto) -> Iterator[str]:
        given = [self._name(name) if name else "None" for name in node.input]
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                name = self._new(f"{node.op_type}_{attribute.name}")
                yield "@graph()"
                yield f"def {name}({', '.join(self._name(item.name) for item in attribute.g.input)}):"
                for line in self._body(attribute.g):
                    yield INDENT + line
                given.append(f"{_identifier(attribute.name)}={name}")
            else:
                given.append(f"{_identifier(attribute.name)}={self._attribute(attribute)}")
        results = ", ".join(self._name(name) if name else self._new("unused") for name in node.output)
        opset = "op" if node.domain in DEFAULT_DOMAINS else self._domains[node.domain]
        yield f"{results} = {opset}.{_identifier(node.op_type)}({', '.join(given)})"

    def _attribute(self, attribute: onnx.AttributeProto) -> str:
        kind, value = onnx.AttributeProto, onnx.helper.get_attribute_value(attribute)
        if attribute.type == kind.TENSOR:
            return self._array(read_tensor(value, self._folder, self._label))
        if attribute.type in (kind.FLOAT, kind.FLOATS):
            return _listed(value, lambda number: _number(shortest(number)))
        if attribute.type in (kind.INT, kind.INTS):
            return _listed(value, str)
        if attribute.type in (kind.STRING, kind.STRINGS):
            return _listed(value, lambda text: repr(text.decode()))
        raise ValueError(f"{self._label}: onnxscript has no form for the attribute {attribute.name!r}")

    def _array(self, array: Array, name: str = "") -> str:
        if name and array.size > INLINE:
            self._large = True
            return f"tensor(weights[{name!r}])"
        numbers = [_number(item) for item in array.ravel().tolist()] if array.dtype.kind in "iub" else None
        if numbers is None:
            numbers = [_number(float(str(item))) for item in array.ravel()]
        text = f"np.array([{', '.join(numbers)}])"
        kind = f'"{array.dtype.name}"'
        if array.dtype.name == "bfloat16":
            kind = "onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.BFLOAT16)"
        if array.ndim == 1 and array.size:
            return f"tensor({text[:-1]}, {kind}))"
        return f"tensor({text}.reshape({list(array.shape)}).astype({kind}))"

    def _name(self, name: str) -> str:
        """The variable that stands for what is called ``name``."""
        if name not in self._names:
            self._names[name] = self._new(name)
        return self._names[name]

    def _new(self, wanted: str) -> str:
        """A name of Python's that is like ``wanted`` and not taken yet."""
        base = re.sub(r"[^A-Za-z0-9_]", "_", wanted)
        if not base or base[0].isdigit() or keyword.iskeyword(base):
            base = f"v{base}" if base[:1].isdigit() else f"{base}_"
        name, number = base, 1
        while name in self._taken:
            number += 1
            name = f"{base}_{number}"
        self._taken.add(name)
        return name


def _type(item: onnx.ValueInfoProto) -> str:
    """The annotation of an input or output; ValueError for what is no tensor."""
    if not item.type.HasField("tensor_type"):
        raise ValueError(f"{item.name!r} is no tensor, and so has no type here")
    tensor = item.type.tensor_type
    dtype_of(tensor.elem_type)
    name = onnx.TensorProto.DataType.Name(tensor.elem_type)
    if not tensor.HasField("shape"):
        return f"{name}[...]"
    axes = [
        str(d.dim_value) if d.HasField("dim_value") else repr(d.dim_param) if d.dim_param else "None"
        for d in tensor.shape.dim
    ]
    return f"{name}[{', '.join(axes)}]" if axes else name


def _identifier(text: str) -> str:
    if not text.isascii() or not text.isidentifier() or keyword.iskeyword(text):
        raise ValueError(f"{text!r} is no name that onnxscript could call an op or an attribute by")
    return text


def _listed(value: Any, write: Any) -> str:
    is_one = isinstance(value, bytes) or not isinstance(value, Sequence)
    return str(write(value)) if is_one else f"[{', '.join(map(write, value))}]"


def _number(value: Any) -> str:
    """A literal; ``repr`` of a float gives it back."""
    if isinstance(value, float) and not np.isfinite(value):
        return "np.nan" if value != value else "np.inf" if value > 0 else "-np.inf"
    return repr(value)


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)
