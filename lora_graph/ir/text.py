"""The text form of graphs: one Value a line with its type, and the parser that gives back the same graph.

    graph mlp(%x: float32[batch, 2]) -> (y=%y) {
      %weight: float32[2, 3] = Parameter {label="weight", trainable=True}
      %y: float32[batch, 3] = MatMul(%x, %weight)  @ 0.base
    }

After ``@`` stands the module a Value belongs to. Attributes are Python literals; dimensions and types are strings. An
attribute that is a graph follows its op as a graph of its own, indented:

      %0: (float32[2]) = Scan(%h, %x) {carried=1, body=
        graph step(%carry0: float32[2], %slice0: float32[2]) -> (next0=%2) {
          %2: float32[2] = Add(%carry0, %slice0)
        }
      }
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from functools import lru_cache
from textwrap import indent
from typing import Any

import numpy as np

from lora_graph.ir import dims
from lora_graph.ir.graph import Graph, Note
from lora_graph.ir.leaves import Input, Parameter
from lora_graph.ir.op import OPS, Op
from lora_graph.ir.types import Array, TensorType, Type, type_of
from lora_graph.ir.value import Value, apply

_PLAIN = re.compile(r"[A-Za-z0-9_.:/-]+")
_STRING = r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\''
_LABEL = rf"(?:{_PLAIN.pattern}|{_STRING})"
_NAME = f"%{_LABEL}"
_TENSOR = rf"\w+\[(?:[^\[\]\"']|{_STRING})*\]"
_TYPE = rf"(?:{_TENSOR}|\({_TENSOR}(?:; {_TENSOR})*\))"
_INPUT = rf"(?P<name>{_NAME}): (?P<type>{_TENSOR})"
_OUTPUT = rf"(?P<name>{_LABEL})=(?P<value>{_NAME})"
_HEADER = re.compile(
    rf"graph (?P<name>{_LABEL})\((?P<inputs>(?:{_NAME}: {_TENSOR}(?:, (?=%)|(?=\))))*)\)"
    rf" -> \((?P<outputs>(?:{_LABEL}={_NAME}(?:, (?=[^)])|(?=\))))*)\) \{{"
)
_LINE = re.compile(
    rf"(?P<target>{_NAME})(?:: (?P<type>{_TYPE}))? = (?P<op>\w+)(?:\((?P<operands>{_NAME}(?:, {_NAME})*)\))?"
    rf"(?: \{{(?P<attributes>(?:[^\"'{{}}]|{_STRING})*)\}})?(?:  @ (?P<scope>{_LABEL}))?"
)


def print_graph(graph: Graph) -> str:
    """``graph`` as text that :func:`parse` reads back to the same graph."""
    names = value_names(graph)
    inputs = ", ".join(f"%{_quote(leaf.op.label)}: {leaf.type}" for leaf in graph.inputs if isinstance(leaf.op, Input))
    outputs = ", ".join(f"{_quote(name)}={names[value]}" for name, value in graph.outputs.items())
    lines = [f"graph {_quote(graph.name)}({inputs}) -> ({outputs}) {{"]
    listed = set(graph.inputs)
    for value in graph.values:
        if value not in listed:
            note = graph.notes.get(value)
            scope = f"  @ {_quote(note.scope)}" if note and note.scope else ""
            lines.append(f"  {names[value]}: {_written_type(value.result_type)} = {_application(value, names)}{scope}")
    return "\n".join([*lines, "}"])


def parse(text: str) -> Graph:
    """The graph that ``text`` writes; ValueError naming the line where it cannot be read."""
    if not isinstance(text, str):
        raise TypeError(f"text must be a str, got {text!r}")
    lines = list(_logical_lines(text))
    if not lines:
        raise ValueError("no graph in an empty text")
    number, head = lines[0]
    header = _HEADER.fullmatch(head)
    if not header or lines[-1][1] != "}":
        raise ValueError(
            f"line {number}: expected 'graph NAME(inputs) -> (outputs) {{' and a closing '}}', got {head!r}"
        )
    notes: dict[Value, Note] = {}
    with _at_line(number):
        values = _read_inputs(header["inputs"])
    inputs = tuple(values.values())
    for inner, line in lines[1:-1]:
        with _at_line(inner):
            _read_line(line, values, notes)
    with _at_line(number):
        outputs = {
            _unquote(port["name"]): _lookup(values, port["value"]) for port in re.finditer(_OUTPUT, header["outputs"])
        }
    return Graph(inputs, outputs, notes, _unquote(header["name"]))


@contextmanager
def _at_line(number: int) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, SyntaxError) as error:
        raise ValueError(f"line {number}: {error}") from error


def _read_inputs(text: str) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for port in re.finditer(_INPUT, text):
        label = _unquote(port["name"][1:])
        if label in values:
            raise ValueError(f"two inputs are called {label!r}")
        values[label] = apply(Input(label, _read_type(port["type"])))
    return values


def dump_value(value: Value) -> str:
    return print_graph(Graph((), {"value": value}))


def load_value(text: str) -> Value:
    return parse(text).outputs["value"]


def value_names(graph: Graph) -> dict[Value, str]:
    """A unique printed name for each Value: the noted one, a leaf's own, or a number."""
    names: dict[Value, str] = {}
    taken: set[str] = set()
    for value in graph.inputs:
        names[value] = f"%{_quote(getattr(value.op, 'label', ''))}"
        taken.add(names[value])
    number = 0
    for value in graph.values:
        if value in names:
            continue
        note = graph.notes.get(value)
        wanted = note.name if note and note.name else value.op.label if isinstance(value.op, Input | Parameter) else ""
        name = f"%{_quote(wanted)}" if wanted else f"%{number}"
        while name in taken:
            number += 1
            name = f"%{_quote(f'{wanted}.{number}')}" if wanted else f"%{number}"
        names[value] = name
        taken.add(name)
    return names


def _application(value: Value, names: Mapping[Value, str]) -> str:
    operands = ", ".join(names[operand] for operand in value.operands)
    attributes = _written_attributes(value.op)
    return value.op.name + (f"({operands})" if operands else "") + (f" {{{attributes}}}" if attributes else "")


@lru_cache(maxsize=4096)
def _written_attributes(op: Op) -> str:
    attributes = sorted(op.attributes().items(), key=lambda item: isinstance(item[1], Graph))
    return ", ".join(f"{name}={_literal(attribute)}" for name, attribute in attributes)


@lru_cache(maxsize=4096)
def _written_type(type_: Type) -> str:
    return str(type_)


def _read_line(line: str, values: dict[str, Value], notes: dict[Value, Note]) -> None:
    match = _LINE.fullmatch(line)
    if not match:
        raise ValueError(f"cannot read {line!r}: expected '%name: type = Op(%operand, ...) {{attribute=value}}'")
    operands = [_lookup(values, token) for token in re.findall(_NAME, match["operands"] or "")]
    op = _read_op(match["op"], match["attributes"] or "")
    value = apply(op, *operands)
    if match["type"] and _written_type(value.result_type) != match["type"]:
        raise ValueError(f"{match['target']} is {value.result_type}, not {match['type']}")
    name = _unquote(match["target"][1:])
    values[name] = value
    scope = _unquote(match["scope"]) if match["scope"] else ""
    own = value.op.label if isinstance(value.op, Input | Parameter) else ""
    noted = "" if name == own or name.isdigit() else name
    if scope or noted:
        notes[value] = Note(name=noted, scope=scope)


@lru_cache(maxsize=4096)
def _read_op(name: str, attributes: str) -> Op:
    if name not in OPS:
        raise ValueError(f"unknown op {name!r}")
    call = ast.parse(f"dict({attributes})", mode="eval").body
    assert isinstance(call, ast.Call)
    written = {keyword.arg: _read_literal(keyword.value) for keyword in call.keywords if keyword.arg}
    declared = {f.name: str(f.type) for f in fields(OPS[name])}
    unknown = sorted(set(written) - set(declared))
    if unknown:
        raise ValueError(f"{name} has no attribute {unknown[0]!r}; it has {sorted(declared)}")
    return OPS[name](**{key: _typed(declared[key], value) for key, value in written.items()})


def _typed(declared: str, value: Any) -> Any:
    """A literal as the kind of thing that the op's field is declared to hold."""
    if "TensorType" in declared:
        return tuple(map(_read_type, value)) if isinstance(value, tuple) else _read_type(value)
    if "Graph" in declared:
        return parse(value)
    if "dtype" in declared and isinstance(value, str):
        return np.dtype(value)
    if ("Shape" in declared or "tuple[Dim" in declared) and value is not None:
        return tuple(dims.dim(item) if isinstance(item, str) else item for item in value)
    if "Dim" in declared and isinstance(value, str):
        return dims.dim(value)
    return value


def _literal(attribute: Any) -> str:
    match attribute:
        case dims.SymbolicDim() | TensorType():
            return repr(str(attribute))
        case float():
            return repr(float(attribute))
        case np.dtype():
            return repr(attribute.name)
        case tuple():
            return f"({''.join(f'{_literal(item)}, ' for item in attribute)[: -1 if len(attribute) == 1 else -2]})"
        case np.ndarray():
            return _array_literal(attribute)
        case Op():
            return f"{attribute.name}({_written_attributes(attribute)})"
        case Graph():
            return f"\n{indent(print_graph(attribute), '    ')}\n  "
    return repr(attribute)


def _array_literal(array: Array) -> str:
    kind = str(type_of(array))
    if array.dtype.kind in "biu":
        return f"array({kind!r}, {array.tolist()!r})"
    # the shortest digits that tell a float32 from its neighbours are fewer than those of the equal float64
    short = np.asarray([float(str(item)) for item in array.ravel()], np.float64).reshape(array.shape)
    again = np.asarray(short.tolist(), array.dtype).reshape(array.shape)
    if again.tobytes() == array.tobytes():
        return f"array({kind!r}, {short.tolist()!r})"
    return f"array({kind!r}, {array.tobytes().hex()!r})"


def _read_literal(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id="nan" | "inf" as name):
            return float(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_read_literal(operand)
        case ast.Tuple(elts=items):
            return tuple(map(_read_literal, items))
        case ast.List(elts=items):
            return list(map(_read_literal, items))
        case ast.Call(func=ast.Name(id="array"), args=[ast.Constant(value=str() as kind), content]):
            return _read_array(_read_type(kind), _read_literal(content))
        case ast.Call(func=ast.Name(id=name), args=[]):
            return _read_op(name, ", ".join(ast.unparse(keyword) for keyword in node.keywords))
    raise ValueError(f"cannot read the attribute {ast.unparse(node)}")


def _read_array(kind: TensorType, content: Any) -> Array:
    shape = tuple(int(d) for d in kind.shape if isinstance(d, int))
    if isinstance(content, str):
        return np.frombuffer(bytes.fromhex(content), kind.dtype).reshape(shape)
    return np.asarray(content, kind.dtype).reshape(shape)


def _read_type(text: str) -> TensorType:
    match = re.fullmatch(r"(\w+)\[(.*)\]", text.strip())
    if not match:
        raise ValueError(f"cannot read the type {text!r}: expected dtype[dimensions]")
    written = ast.parse(f"({match[2]},)" if match[2].strip() else "()", mode="eval").body
    assert isinstance(written, ast.Tuple)
    return TensorType(np.dtype(match[1]), tuple(dims.dim(ast.unparse(item)) for item in written.elts))


def _lookup(values: Mapping[str, Value], token: str) -> Value:
    name = _unquote(token[1:])
    if name not in values:
        raise ValueError(f"{token} is used before it is defined")
    return values[name]


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines without blanks and comments; a graph that is an attribute becomes a string in the line of its op."""
    stripped = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
    lines = ((number, line) for number, line in stripped if line and not line.startswith("#"))
    for number, line in lines:
        while line.endswith("="):
            line += repr(_nested(lines)) + next(lines, (0, ""))[1]
        yield number, line


def _nested(lines: Iterator[tuple[int, str]]) -> str:
    """The text of one graph, up to the line that closes it."""
    inner, depth = [], 0
    for _, line in lines:
        inner.append(line)
        depth += line.startswith("graph ") + line.endswith("=") - line.startswith("}")
        if depth <= 0:
            break
    return "\n".join(inner)


def _quote(name: str) -> str:
    return name if _PLAIN.fullmatch(name) else '"' + name.encode("unicode_escape").decode().replace('"', '\\"') + '"'


def _unquote(token: str) -> str:
    return ast.literal_eval(token) if token.startswith('"') else token
