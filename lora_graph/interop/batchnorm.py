"""BatchNorm that an exporter folded into the weight before it: W became f ⊙ W, one factor f for each output.

An adapter was trained beside W, so that at f ⊙ W it would be silently wrong. Where W is known, f is recovered and the
model becomes (x W) ⊙ f again; exporting it folds f anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lora_graph.adapters.site import uses
from lora_graph.errors import LoadError
from lora_graph.interop.modules import Found, Modules, Weight
from lora_graph.interop.surgery import rebuilt
from lora_graph.ir.leaves import Parameter, parameter
from lora_graph.ir.op import Op
from lora_graph.ir.types import Array, show
from lora_graph.ir.value import Value, apply
from lora_graph.layers.imported import ImportedLayer
from lora_graph.layers.layer import Layer
from lora_graph.ops.convolution import Conv

RULE, RENAMED = "FuseBatchNorm", "onnx::Conv_"
TOLERANCE = 1e-5


def is_folded(weight: Weight) -> bool:
    """Whether the weight is not what the module had, by what exporters leave behind.

    The dynamo exporter notes its rule, and gives a convolution that had no bias one named after its weight; the
    TorchScript exporter numbers the weights of convolutions that it changes.
    """
    is_renamed = weight.target.kind == "convolution" and weight.name.startswith(RENAMED)
    return is_renamed or weight.bias == f"{weight.name}_bias" or any(rule.startswith(RULE) for rule in weight.rules)


def unfold(model: Layer, path: Path, modules: Modules, found: Mapping[str, Found]) -> tuple[Layer, dict[str, str]]:
    """``model`` with these modules' weights as they were before exporting, and a note for each that was changed.

    LoadError naming the module for a weight that is folded while nothing tells what it was, or that is no multiple of
    what it is said to have been.
    """
    factors: dict[str, tuple[Array, Array]] = {}
    notes: dict[str, str] = {}
    for module, hit in found.items():
        weight, given = hit.weight, modules.given(module)
        if given is None:
            if is_folded(weight):
                raise LoadError(
                    f"{path}: {module}: a BatchNorm was folded into {weight.name} in exporting, so that it is not "
                    f"the weight that was adapted; give base_weights with {module}.weight to take it out again"
                )
        elif not _is_close(given, weight.array) and not _is_close(given.T, weight.array):
            factors[weight.name] = _factor(module, weight, given)
            notes[module] = f"a factor for each output was taken out of {weight.name}"
    return (_unfolded(model, factors) if factors else model), notes


def _is_close(given: Array, array: Array) -> bool:
    scale = np.abs(array).max(initial=0)
    return given.shape == array.shape and bool(np.abs(given - array).max(initial=0) <= TOLERANCE * scale)


def _factor(module: str, weight: Weight, given: Array) -> tuple[Array, Array]:
    """The array before folding as the parameter lies, and the factors."""
    if given.shape != weight.shape:
        raise LoadError(f"base_weights: {module}.weight has {show(given.shape)}, the model {show(weight.shape)}")
    old = given.reshape(given.shape[0], -1).astype(np.float64)
    new = weight.in_layout(weight.array).reshape(old.shape).astype(np.float64)
    size = (old * old).sum(1)
    factor = np.divide((old * new).sum(1), size, out=np.ones_like(size), where=size > 0)
    if np.abs(new - factor[:, None] * old).max() > TOLERANCE * np.abs(new).max():
        raise LoadError(f"base_weights: {weight.name} is no multiple, output by output, of {module}.weight")
    return np.array(weight.in_layout(given), order="C"), factor.astype(weight.array.dtype)


def _unfolded(model: Layer, factors: Mapping[str, tuple[Array, Array]]) -> Layer:
    if not isinstance(model, ImportedLayer):
        raise LoadError(f"{', '.join(factors)} of {model.layer_name} differ from base_weights, and it was not imported")
    arrays = {name: array for name, (array, _) in factors.items()}
    arrays |= {_label(name): factor for name, (_, factor) in factors.items()}

    def unfolded(value: Value, operands: list[Value]) -> Value | None:
        names = [use.weight.op.label for use in uses(value) if isinstance(use.weight.op, Parameter)]
        folded = [name for name in names if name in factors]
        return _scaled(value.op, operands, _label(folded[0]), factors[folded[0]][1]) if folded else None

    return rebuilt(model, unfolded, arrays)


def _label(name: str) -> str:
    return f"{name}_folded"


def _scaled(op: Op, operands: list[Value], label: str, factor: Array) -> Value:
    """The product times the factors; a bias, which is what it was made to be in folding, comes after."""
    product = apply(op, *operands[:2])
    shape = (*factor.shape, *(1,) * (product.rank - 2)) if isinstance(op, Conv) else factor.shape
    scaled: Value = product * parameter(label, factor.dtype, factor.shape, False).reshape(shape)
    return scaled + operands[2].reshape(shape) if operands[2:] else scaled
