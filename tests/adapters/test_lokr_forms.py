"""LoKr in parts: every form of both factors, and the shapes that PEFT chooses."""

from __future__ import annotations

import json
import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lora_graph as lg
from lora_graph.adapters.kronecker import KroneckerLayer
from lora_graph.adapters.lokr import decomposed, factorization
from lora_graph.autodiff import gradients
from tests.adapters.cases import whole
from tests.layers.cases import shifted
from tests.reference import close, differences

TABLES = Path(__file__).parents[3] / "shared" / "fixtures" / "tables"
recorded = pytest.mark.skipif(not TABLES.is_dir(), reason="the tables lie beside the repository, not in it")

FORMS = {f"A{a}-B{b}": lg.KroneckerForm(((3, 2), (2, 3)), (a, b)) for a, b in product((0, 1, 2), (0, 2))}


def network() -> lg.Sequential:
    return lg.Sequential(
        [
            lg.ConvolutionalLayer(6, 6, 3, padding=1, activation="tanh", dtype="float64", rng=0),
            lg.GlobalAveragePoolLayer(dtype="float64"),
            lg.DenseLayer(6, 6, dtype="float64", rng=1),
        ]
    )


def change_of(p: dict[str, Any], branch: str, s: float) -> Any:
    """s · A ⊗ B ``[out, in, *kernel]``."""
    a, b = whole(p, branch, "A"), whole(p, branch, "B")
    return s * np.kron(a.reshape(*a.shape, *(1,) * (b.ndim - 2)), b)


@pytest.mark.parametrize("tucker", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_forms_weight_by_weight(form: str, tucker: bool, rng: np.random.Generator) -> None:
    plain = FORMS[form]
    forms = {"0.weight": plain._replace(is_tucker=tucker and plain.ranks[1] > 0), "2.weight": plain}
    adapter = shifted(lg.LoKrAdapter(network(), 2, 3.0, forms=forms, site="weight", rng=0))
    assert adapter.options == {"forms": forms}
    x = rng.normal(size=(2, 6, 4, 5))
    merged, p = adapter.merge_to_original_layer(), adapter.state
    for label, branch in (("0.weight", "lokr_0_weight"), ("2.weight", "lokr_2_weight")):
        change = change_of(p, branch, 1.5)
        expected = p[f"base.{label}"] + (change.T if change.ndim == 2 else change)
        close(merged.get_parameter(label), expected, 1e-12)
    close(adapter.forward(x), merged.forward(x), 1e-12)
    close(adapter.branches["lokr_0_weight"].get_matrix_b(), whole(p, "lokr_0_weight", "B"), 1e-12)  # type: ignore[attr-defined]
    close(adapter.get_matrix_a(), whole(p, "lokr_0_weight", "A"), 1e-12)
    check_gradient(adapter, x, rng)
    matrices = {site.label: branch.state for site, branch in zip(adapter.sites, adapter.branches.values(), strict=True)}
    again = lg.LoKrAdapter.from_matrices(adapter.base_layer, matrices, 2, 3.0)
    close(again.forward(x), adapter.forward(x), 1e-14)


def check_gradient(adapter: lg.Adapter, x: Any, rng: np.random.Generator) -> None:
    y = adapter.forward(x)
    g = rng.normal(size=y.shape)
    adapter.backward(g)
    found, start, at = (
        adapter.get_parameter_gradients(),
        adapter.get_parameters(),
        rng.normal(size=adapter.parameter_count),
    )

    def along(step: Any) -> Any:
        adapter.set_parameters(start + step * at)
        return (g * adapter.forward(x)).sum()

    close(found @ at, differences(along, [np.zeros(())], 0), 1e-6)
    adapter.set_parameters(start)


def test_parts_are_never_multiplied_out() -> None:
    form = lg.KroneckerForm(((40, 40), (25, 25)), (2, 2))
    adapter = lg.LoKrAdapter(lg.DenseLayer(1000, 1000, rng=0), 2, forms={"weight": form}, site="weight")
    graph = adapter.to_graph()
    weights = [leaf for name, leaf in graph.parameters.items() if name.startswith("lokr")]
    backward = lg.Graph(graph.inputs, dict(enumerate(gradients(graph.outputs["y"].sum(), weights))))  # type: ignore[arg-type]
    for one in (graph, backward):
        static = [v.type.size for v in one.values if v.operands and v.type.is_static and not v.op.view]
        assert max(static, default=0) < 25 * 25


@pytest.mark.parametrize("both", [False, True])
def test_as_peft_starts_it(both: bool, rng: np.random.Generator) -> None:
    options = {"decompose_factor": -1, "decompose_both": both, "tucker": True}
    base = lg.Sequential([lg.ConvolutionalLayer(16, 32, 3, rng=0), lg.GlobalAveragePoolLayer(), lg.DenseLayer(32, 24)])
    adapter = lg.LoKrAdapter(base, 1, site="weight", rng=0, **options)
    x = rng.normal(size=(2, 16, 5, 5)).astype(np.float32)
    np.testing.assert_array_equal(adapter.forward(x), base.forward(x))
    found = adapter.state
    zero = "A_left" if both else "A"
    for name, array in ((n, a) for n, a in found.items() if n.startswith("lokr")):
        assert (not array.any()) == name.endswith(f".{zero}"), name
    core, right = found["lokr_0_weight.B_core"], found["lokr_0_weight.B_right"]
    assert np.abs(core).max() <= 1 / 3  # U(-1/√fan_in, 1/√fan_in) with fan_in = 1 · 3 · 3
    assert np.abs(right).max() <= 1 / math.sqrt(right.shape[1])


@recorded
def test_widths_are_factored_as_peft_does() -> None:
    rows = json.loads((TABLES / "factorization.json").read_text())
    assert len(rows) > 100
    for row in rows:
        assert [*factorization(row["dim"], row["factor"])] == row["peft"], row


@recorded
def test_forms_are_those_of_peft() -> None:
    rows = json.loads((TABLES / "lokr_shapes.json").read_text())
    assert len(rows) > 100
    for row in rows:
        inner, outer, *size = row["args"]
        kernel = tuple(size * 2)
        flags = row["decompose_both"], row["use_effective_conv2d"]
        form = decomposed(inner, outer, kernel, row["r"], row["decompose_factor"], *flags)
        layer = KroneckerLayer(form, kernel, row["r"], zero="A", rng=0)
        assert sorted(math.prod(layer.get_parameter_shape(name)) for name in layer.own) == sorted(
            math.prod(shape) for shape in row["shapes"].values()
        ), row
        assert len(layer.own) == len(row["shapes"])


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"decompose_both": True}, ValueError, "decompose_both and tucker need decompose_factor"),
        ({"tucker": True}, ValueError, "decompose_both and tucker need decompose_factor"),
        ({"decompose_factor": 0}, ValueError, "decompose_factor must be at least 1, or -1"),
        ({"decompose_factor": 2.0}, TypeError, "decompose_factor must be an int"),
        ({"decompose_factor": 2, "factors": ((5, 4), (2, 3))}, ValueError, "exclude each other"),
        ({"forms": {"other": lg.KroneckerForm(((5, 4), (2, 3)))}}, ValueError, "there is none for weight"),
        ({"forms": {"weight": lg.KroneckerForm(((5, 4), (2, 4)))}}, ValueError, "n·q = 12"),
        ({"forms": {"weight": lg.KroneckerForm(((5, 4), (2, 3)), (0, 1), True)}}, ValueError, "weight has no kernel"),
        ({"forms": {"weight": (((5, 4), (2, 3)), (0, 0), True)}}, ValueError, "a core needs B in parts"),
        ({"forms": {"weight": ((5, 4), (2, 3))}}, TypeError, "forms must be KroneckerForms"),
        ({"forms": {"weight": (((5, 4), (2, 3)), (0, -1), False)}}, ValueError, "a rank must be at least 0"),
    ],
)
def test_arguments_that_cannot_be(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        lg.LoKrAdapter(lg.DenseLayer(12, 10), 2, site="weight", **arguments)


def test_matrices_of_no_form() -> None:
    with pytest.raises(ValueError, match="needs A and B, each whole or as left and right"):
        lg.KroneckerForm.of({"A": np.ones((2, 2)), "B_left": np.ones((2, 1))})
