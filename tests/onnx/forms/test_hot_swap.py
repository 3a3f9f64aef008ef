"""One model for any adapter: the plain file is the base, an adapter file makes it the adapted model."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import lora_graph as lg
from lora_graph.errors import LoadError
from lora_graph.layers.weights import read_metadata, read_safetensors
from lora_graph.onnx.adapter_file import AdapterFile
from lora_graph.onnx.forms.deployment import FINGERPRINT, SLOTS
from tests.onnx.forms.models import BASES, FAMILIES, adapted, dense, numbers, randomized

TOLERANCE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}


@pytest.mark.filterwarnings("ignore:at rank")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", BASES)
def test_the_model_is_the_base_until_an_adapter_is_chosen(
    kind: str, family: str, rng: np.random.Generator, tmp_path: Path
) -> None:
    make, draw, shape = BASES[kind]
    base = make(rng)
    model = adapted(base, family, rng)
    lg.export_adapter(model, tmp_path / "tuned.onnx_adapter")
    session = lg.Session(lg.export_onnx(model, form="hot-swap", input_shape=shape))
    assert session.load_adapter(tmp_path / "tuned.onnx_adapter") == "tuned"
    exact = (family, "convolution" in kind) != ("lokr", True)  # there it changes the kernel, which is then no constant
    plain, parallel = (lg.Session(lg.export_onnx(layer, input_shape=shape)) for layer in (base, model))
    for batch in (1, 4):
        x = draw(rng, batch)
        np.testing.assert_allclose(session.run(x), plain.run(x), rtol=0, atol=0 if exact else 1e-6)
        np.testing.assert_allclose(session.run(x, adapter="tuned"), parallel.run(x), **TOLERANCE)
        assert np.abs(session.run(x, adapter="tuned") - plain.run(x)).max() > 1e-2


@pytest.mark.parametrize("make", [lg.LSTMLayer, lg.GRULayer])
def test_recurrent_weights_are_the_bases_up_to_rounding(make: Any, rng: np.random.Generator, tmp_path: Path) -> None:
    base = make(6, 8, rng=rng)
    model = adapted(base, "lora", rng)
    lg.export_adapter(model, tmp_path / "a.onnx_adapter")
    session = lg.Session(lg.export_onnx(model, form="hot-swap"))
    session.load_adapter(tmp_path / "a.onnx_adapter")
    x = rng.normal(size=(3, 5, 6)).astype(np.float32)
    np.testing.assert_allclose(session.run(x), base.forward(x), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(session.run(x, adapter="a"), model.forward(x), **TOLERANCE)


def test_adapters_of_any_rank_and_place_fit_the_model_of_all(rng: np.random.Generator, tmp_path: Path) -> None:
    base = dense(rng)
    model = lg.AdaptedModel(base)
    model.add_adapter("first", targets="0.weight", rank=1, rng=rng)
    model.add_adapter("both", "lora_drop", targets="*", rank=7, alpha=2, dropout_rate=0.5, rng=rng)
    model.add_adapter("second", "dylora", targets="1.weight", rank=4, active_ranks=[2, 4], rng=rng)
    randomized(model, rng)
    session = lg.Session(lg.export_onnx(model, form="hot-swap"))
    x = numbers(rng, 3)
    for name in model.adapters:
        lg.export_adapter(model, tmp_path / f"{name}.onnx_adapter", name)
        session.load_adapter(tmp_path / f"{name}.onnx_adapter")
    assert session.adapters == ("first", "both", "second")
    for name in model.adapters:
        model.set_active(name)
        np.testing.assert_allclose(session.run(x, adapter=name), model.forward(x), **TOLERANCE)
    np.testing.assert_array_equal(session.run(x), lg.Session(base).run(x))


@pytest.mark.filterwarnings("ignore:.*cannot be merged into it exactly")
def test_an_adapter_around_a_single_layer(rng: np.random.Generator, tmp_path: Path) -> None:
    base = lg.DenseLayer(12, 9, "relu", rng=rng)
    for site in ("output", "weight"):
        layer = randomized(lg.StandardLoRAAdapter(base, 3, alpha=5, site=site, rng=rng), rng)
        lg.export_adapter(layer, tmp_path / "a.onnx_adapter")
        with lg.Session(lg.export_onnx(layer, form="hot-swap")) as session:
            session.load_adapter(tmp_path / "a.onnx_adapter")
            x = numbers(rng, 3)
            np.testing.assert_array_equal(session.run(x), lg.Session(base).run(x))
            np.testing.assert_allclose(session.run(x, "a"), layer.forward(x), **TOLERANCE)


def test_the_web_form_takes_the_same_matrices_as_inputs(rng: np.random.Generator, tmp_path: Path) -> None:
    base = dense(rng)
    model = adapted(base, "lora", rng, rank=5)
    session = lg.Session(lg.export_onnx(model, form="web"))
    path = tmp_path / "a.safetensors"
    lg.export_adapter(model, path, form="web")
    assert len(read_metadata(path)[FINGERPRINT]) == 32
    matrices = read_safetensors(path)
    assert [*session.inputs] == ["x", *sorted(matrices, key=list(session.inputs).index)]
    x = numbers(rng, 4)
    np.testing.assert_allclose(session.run({"x": x, **matrices}), model.forward(x), **TOLERANCE)
    empty = {n: np.zeros([0 if d == 5 else d for d in array.shape], np.float32) for n, array in matrices.items()}
    np.testing.assert_array_equal(session.run({"x": x, **empty}), lg.Session(base).run(x))


def test_a_model_without_adapters_has_nothing_to_swap(rng: np.random.Generator, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no adapter"):
        lg.export_onnx(dense(rng), form="hot-swap")
    model = adapted(dense(rng), "lora", rng)
    with pytest.raises(ValueError, match="'parallel' takes no adapter files"):
        lg.export_adapter(model, tmp_path / "a", form="parallel")
    with pytest.raises(ValueError, match=r"name must be one of default"):
        lg.export_adapter(model, tmp_path / "a", "other")
    model.merge()
    with pytest.raises(RuntimeError, match="unmerge"):
        lg.export_onnx(model, form="hot-swap")
    assert list(tmp_path.iterdir()) == []


class Exponential(lg.Adapter):
    """y = base(x) + exp(x A B), where zeros do not leave the base as it is."""

    def create_branch(self, name: str, site: lg.Site) -> lg.Layer:
        return lg.LoRALayer(site.in_features, site.out_features, site.rank, rng=self.rng)

    def delta(self, ctx: lg.Context, name: str, branch: lg.Layer, h: lg.Value) -> lg.Value:
        return lg.ops.exp(ctx.call(branch, h))


def test_a_family_whose_zeros_change_the_base_is_refused(rng: np.random.Generator) -> None:
    layer = Exponential(lg.DenseLayer(5, 4, rng=rng), 2)
    with pytest.raises(ValueError, match="which Exponential does not leave as it is where all its parameters are zero"):
        lg.export_onnx(layer, form="hot-swap")


@pytest.fixture
def swappable(rng: np.random.Generator, tmp_path: Path) -> tuple[lg.AdaptedModel, lg.Session, Path]:
    model = adapted(dense(rng), "lora", rng)
    lg.export_adapter(model, tmp_path / "a.onnx_adapter")
    return model, lg.Session(lg.export_onnx(model, form="hot-swap")), tmp_path / "a.onnx_adapter"


Swappable = tuple[lg.AdaptedModel, lg.Session, Path]


def test_names_of_adapters_are_checked(swappable: Swappable, rng: np.random.Generator) -> None:
    _, session, path = swappable
    x = numbers(rng, 2)
    session.load_adapter(path)
    session.load_adapter(path, "twin")
    for wrong in ("b", ["a", "b"]):
        with pytest.raises(ValueError, match=r"no adapter called 'b' is loaded; there are 'a', 'twin'"):
            session.run(x, adapter=wrong)
    with pytest.raises(ValueError, match=r"'twin' and adapter 'a' both set '[01]\.weight\.lora\.[AB]'"):
        session.run(x, adapter=["a", "twin"])
    with pytest.raises(ValueError, match="'a' is loaded already"):
        session.load_adapter(path)
    fed = {"x": x, "0.weight.lora.A": np.zeros((12, 2)), "0.weight.lora.B": np.zeros((2, 16))}
    with pytest.raises(ValueError, match="a value that is fed both set"):
        session.run(fed, adapter="a")
    np.testing.assert_array_equal(session.run(fed), session.run(x))
    session.unload_adapter("twin")
    assert session.adapters == ("a",)
    with pytest.raises(ValueError, match="twin"):
        session.unload_adapter("twin")


def _changed(path: Path, to: Path, change: Any, version: int | None = None) -> Path:
    file = AdapterFile.read(path)
    arrays = dict(file.arrays)
    change(arrays)
    AdapterFile(arrays, file.model_version if version is None else version).write(to)
    return to


WRONG: dict[str, tuple[Any, str]] = {
    "missing": (lambda a: a.pop("0.weight.lora.B"), "'0.weight.lora.B' is missing"),
    "unknown": (lambda a: a.update(extra=np.zeros(2, np.float32)), "no slot 'extra'"),
    "dtype": (lambda a: a.update({"0.weight.lora.A": a["0.weight.lora.A"].astype(np.float64)}), "is float64"),
    "shape": (lambda a: a.update({"0.weight.lora.A": np.zeros((13, 2), np.float32)}), r"\[13, 2\], the model takes"),
    "rank": (lambda a: a.update({"0.weight.lora.B": np.zeros((3, 16), np.float32)}), r"\[3, 16\], the model takes"),
    "not finite": (lambda a: a["0.weight.lora.A"].fill(np.nan), "0.weight.lora.A holds values that are not finite"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_files_that_do_not_fit_are_refused_and_leave_the_session(wrong: str, swappable: Swappable) -> None:
    _, session, path = swappable
    change, message = WRONG[wrong]
    bad = _changed(path, path.with_name("bad.onnx_adapter"), change)
    with pytest.raises(LoadError, match=message):
        session.load_adapter(bad)
    assert session.adapters == ()


def test_files_for_another_base_or_of_another_kind_are_refused(swappable: Swappable, rng: np.random.Generator) -> None:
    _, session, path = swappable
    other = path.with_name("other.onnx_adapter")
    lg.export_adapter(adapted(dense(rng), "lora", rng), other)
    with pytest.raises(LoadError, match=r"other\.onnx_adapter: the adapter was made for another base"):
        session.load_adapter(other)
    content = path.read_bytes()
    for bad in (b"", b"no adapter", content[: len(content) // 2], b"\x80\x04" + content):
        other.write_bytes(bad)
        with pytest.raises(LoadError, match=r"other\.onnx_adapter: "):
            session.load_adapter(other)
    with pytest.raises(LoadError, match="no such file"):
        session.load_adapter(path.with_name("nowhere"))
    native = onnxruntime.AdapterFormat()
    native.set_adapter_version(7)
    native.set_parameters({})
    native.export_adapter(str(other))
    with pytest.raises(LoadError, match="adapter version is 7"):
        session.load_adapter(other)
    assert session.adapters == ()


def test_adapters_of_parts_combine(swappable: Swappable, rng: np.random.Generator) -> None:
    model, session, path = swappable
    for layer in ("0", "1"):
        drop = [f"{1 - int(layer)}.weight.lora.{name}" for name in "AB"]
        part = _changed(path, path.with_name(layer), lambda a, drop=drop: [a.pop(name) for name in drop])
        session.load_adapter(part, layer, partial=True)
    x = numbers(rng, 3)
    np.testing.assert_allclose(session.run(x, adapter=["0", "1"]), model.forward(x), **TOLERANCE)
    half = _changed(path, path.with_name("half"), lambda a: a.pop("0.weight.lora.B"))
    with pytest.raises(LoadError, match="what it is multiplied with is there"):
        session.load_adapter(half, partial=True)


def test_a_model_that_takes_no_adapters(swappable: Swappable) -> None:
    model, _, path = swappable
    with lg.Session(model) as session, pytest.raises(ValueError, match="takes no adapters"):
        session.load_adapter(path)
    with pytest.raises(RuntimeError, match="closed"):
        session.load_adapter(path)


@pytest.mark.slow
def test_a_hundred_adapters_swapped_ten_thousand_times_by_two_threads(tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    width, count = 68, 100
    base = lg.DenseLayer(width, width, rng=rng)
    template = lg.adapt(base, rank=1, rng=rng)
    session = lg.Session(lg.export_onnx(template, form="hot-swap"), threads=1)
    x = rng.normal(size=(2, width)).astype(np.float32)
    wanted = {None: base.forward(x)}
    for index in range(count):
        model = randomized(lg.adapt(base, rank=1 + index * 63 // (count - 1), rng=rng), rng)
        wanted[f"a{index}"] = model.forward(x)
        lg.export_adapter(model, tmp_path / f"a{index}.onnx_adapter")
    names = list(wanted)

    def swap(seed: int) -> int:
        own = np.random.default_rng(seed)
        wrong = 0
        for step in range(5000):
            name = names[own.integers(len(names))]
            if name is not None:
                called = f"{name} {seed}"
                if called not in session.adapters:
                    session.load_adapter(tmp_path / f"{name}.onnx_adapter", called)
                y = session.run(x, adapter=called)
                if step % 3 == 0:
                    session.unload_adapter(called)
            else:
                y = session.run(x)
            wrong += not np.allclose(y, wanted[name], rtol=1e-4, atol=1e-4)
        return wrong

    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(swap, (1, 2))) == 0


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [(SLOTS, "[", "is not JSON"), (SLOTS, "[1]", "must be a list of names"), (FINGERPRINT, "base", "hexadecimal")],
)
def test_models_that_tell_nonsense_of_themselves_are_refused(
    key: str, text: str, message: str, rng: np.random.Generator
) -> None:
    written = lg.export_onnx(adapted(dense(rng), "lora", rng), form="hot-swap")
    next(prop for prop in written.metadata_props if prop.key == key).value = text
    with pytest.raises(LoadError, match=message):
        lg.Session(written)
