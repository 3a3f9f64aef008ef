"""Models written as onnxscript functions, which looks their types up among the names of the module."""

# mypy: ignore-errors

import onnx
import onnxscript
from onnxscript import FLOAT, INT64
from onnxscript import opset17 as op

IDS, ROWS = INT64["n", "t"], FLOAT["n", "t", 4]


@onnxscript.script(default_opset=op)
def double(x):
    return x + x


@onnxscript.script(default_opset=op)
def lookup(ids: IDS, gain: ROWS) -> ROWS:
    """Twice the rows of a table of 0 … 11, times a gain."""
    table = op.Constant(value=onnx.helper.make_tensor("table", 1, (3, 4), list(map(float, range(12)))))
    return double(op.Gather(table, ids)) * gain
