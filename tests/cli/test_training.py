"""adapt, train, merge and export, as a shell script would call them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import lora_graph as lg
from lora_graph.adapters.runs import ADAPTER, CHECKPOINT, RECORD, load
from tests.cli.test_commands import call
from tests.train.transformer import Encoder, samples


@pytest.fixture
def base(tmp_path: Path) -> Path:
    layers = [lg.DenseLayer(6, 8, "tanh", rng=0), lg.DenseLayer(8, 3, rng=1)]
    lg.export_onnx(lg.Sequential(layers), tmp_path / "base.onnx")
    return tmp_path / "base.onnx"


@pytest.fixture
def data(rng: np.random.Generator, tmp_path: Path) -> Path:
    x = rng.normal(size=(96, 6)).astype(np.float32)
    np.savez(tmp_path / "train.npz", inputs=x, targets=(x[:, 0] > 0) + (x[:, 1] > 0).astype(int))
    return tmp_path / "train.npz"


@pytest.mark.parametrize("command", ["adapt", "import", "train", "merge"])
def test_help(command: str) -> None:
    result = call(command, "--help")
    assert result.exit_code == 0
    assert "Usage: " in result.output


def test_from_a_file_to_a_tuned_file(base: Path, data: Path, tmp_path: Path) -> None:
    run, tuned, parallel = tmp_path / "run", tmp_path / "tuned.onnx", tmp_path / "parallel.onnx"
    adapted = call("adapt", base, "--targets", "*weight", "--rank", 2, "-o", run)
    assert adapted.exit_code == 0, adapted.output
    assert "lora of rank 2 at 2 weights" in adapted.output
    x, plain = np.load(data)["inputs"], lg.load_onnx(base)
    np.testing.assert_array_equal(load(run).eval().forward(x), plain.forward(x))

    trained = call("train", run, "--data", data, "--loss", "cross_entropy", "--epochs", 4, "--lr", 0.02, "--json")
    assert trained.exit_code == 0, trained.output
    facts = json.loads(trained.output)
    assert facts["steps"] == 12
    assert facts["epoch_losses"][-1] < facts["epoch_losses"][0]
    assert sorted(path.name for path in run.iterdir()) == [ADAPTER, RECORD]

    y = load(run).eval().forward(x)
    for form, path in (("merged", tuned), ("parallel", parallel)):
        exported = call("export", run, "--form", form, "-o", path)
        assert exported.exit_code == 0, exported.output
        assert "default: lora rank 2" in exported.output
        np.testing.assert_allclose(lg.Session(path).run(x), y, rtol=1e-4, atol=1e-5)
    assert call("merge", run, "-o", tmp_path / "merged.onnx").exit_code == 0
    assert lg.load_onnx(tmp_path / "merged.onnx").get_parameter_names() == plain.get_parameter_names()


def test_training_goes_on_from_where_it_was(base: Path, data: Path, tmp_path: Path) -> None:
    """Training twice is training from the saved adapter, with a fresh optimizer."""
    run = tmp_path / "run"
    call("adapt", base, "-o", run, "--rank", 2)
    first = json.loads(call("train", run, "--data", data, "--loss", "cross_entropy", "--lr", 0.01, "--json").output)
    second = json.loads(call("train", run, "--data", data, "--loss", "cross_entropy", "--lr", 0.01, "--json").output)
    assert second["epoch_losses"][0] < first["epoch_losses"][0]


@pytest.mark.parametrize(("options", "family"), [(("--ranks", "1,2"), "dylora"), (("--dropout", "0.2"), "lora_drop")])
def test_options_of_families(options: tuple[str, str], family: str, base: Path, tmp_path: Path) -> None:
    result = call("adapt", base, "--adapter", family, "--rank", 2, *options, "-o", tmp_path / "run", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["weights"] == ["0.weight", "1.weight"]
    assert load(tmp_path / "run").adapters["default"].family == family


def test_what_could_be_adapted_is_listed(base: Path) -> None:
    result = call("adapt", base, "--list")
    assert result.output.splitlines() == ["0.weight [6, 8] linear", "1.weight [8, 3] linear"]
    assert [entry["shape"] for entry in json.loads(call("adapt", base, "--list", "--json").output)] == [[6, 8], [8, 3]]


def test_several_inputs_by_name_with_weights(tmp_path: Path) -> None:
    """The samples of weight 0 have labels that there are not."""
    lg.export_onnx(Encoder(), tmp_path / "base.onnx")
    x, t = samples(60)
    weights = np.arange(60) % 3
    np.savez(tmp_path / "train.npz", **x, targets=np.where(weights == 0, 55, t), weights=weights)
    arguments = ["--data", tmp_path / "train.npz", "--loss", "cross_entropy", "--epochs", 6, "--lr", 0.02, "--json"]
    losses = []
    for name, more in (("plain", ()), ("cached", ("--cache-frozen",))):
        adapted = ("--targets", "query_1", "--targets", "head", "--rank", 2, "--unfreeze", "down_1")
        result = call("adapt", tmp_path / "base.onnx", *adapted, "-o", tmp_path / name)
        assert result.exit_code == 0, result.output
        trained = call("train", tmp_path / name, *arguments, *more)
        assert trained.exit_code == 0, trained.output
        losses.append(json.loads(trained.output)["epoch_losses"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-9)
    assert losses[0][-1] < 0.7 * losses[0][0]
    changed = load(tmp_path / "plain").base.state
    moved = [name for name, array in Encoder().state.items() if not np.array_equal(array, changed[name])]
    assert moved == ["down_1"]


def test_ranks_and_alphas_of_what_matches(base: Path, tmp_path: Path) -> None:
    patterns = ("--rank-pattern", "0.*=3", "--alpha-pattern", "1.weight=5", "--rank", 2)
    assert call("adapt", base, *patterns, "-o", tmp_path / "run").exit_code == 0
    sites = load(tmp_path / "run").adapters["default"].sites
    assert {site.label: (site.rank, site.alpha) for site in sites} == {"0.weight": (3, 3.0), "1.weight": (2, 5.0)}


def test_resuming_without_a_checkpoint_says_so(base: Path, data: Path, tmp_path: Path) -> None:
    assert call("adapt", base, "-o", tmp_path / "run", "--rank", 2).exit_code == 0
    result = call("train", tmp_path / "run", "--data", data, "--loss", "cross_entropy", "--resume")
    assert result.exit_code == 0
    assert "has no checkpoint: training starts anew" in result.output


@pytest.mark.slow
def test_an_interrupted_training_goes_on_bit_for_bit(base: Path, data: Path, tmp_path: Path) -> None:
    arguments = ["--data", str(data), "--loss", "cross_entropy", "--epochs", "100", "--batch-size", "8"]
    for name in ("whole", "cut"):
        assert call("adapt", base, "-o", tmp_path / name, "--rank", 2).exit_code == 0
    assert call("train", tmp_path / "whole", *arguments).exit_code == 0

    command = [sys.executable, "-m", "lora_graph", "train", str(tmp_path / "cut"), *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})
    checkpoint = tmp_path / "cut" / CHECKPOINT
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 130, printed
    assert b"--resume goes on from there" in printed
    assert checkpoint.exists()
    assert call("train", tmp_path / "cut", *arguments, "--resume").exit_code == 0
    assert (tmp_path / "cut" / ADAPTER).read_bytes() == (tmp_path / "whole" / ADAPTER).read_bytes()
    assert not checkpoint.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("adapt", "{base}", "-o", "{run}", "--rank", "2"), "holds a run already"),
        (("adapt", "{base}", "-o", "{new}", "--targets", "q*"), "nothing matches 'q*'; nearest: 0.weight"),
        (("adapt", "{base}"), "Missing option '-o'"),
        (("adapt", "{base}", "-o", "{new}", "--rank", "9"), "rank must be at least 1 and less than 6"),
        (("adapt", "{base}", "-o", "{new}", "--adapter", "x"), "adapter must be one of"),
        (("adapt", "{base}", "-o", "{new}", "--ranks", "a,b"), "--ranks must be ints"),
        (("adapt", "{base}", "-o", "{new}", "--ranks", "1,2"), "--ranks belongs to --adapter dylora"),
        (("adapt", "{base}", "-o", "{new}", "--adapter", "dylora"), "--ranks is missing for --adapter dylora"),
        (("adapt", "{base}", "-o", "{new}", "--dropout", "0.1"), "--dropout belongs to --adapter lora_drop"),
        (("adapt", "{base}", "-o", "{new}", "--rank-pattern", "3"), "must be a pattern and a number"),
        (("adapt", "{base}", "-o", "{new}", "--rank-pattern", "0.*=a"), "must be a pattern and a number"),
        (("adapt", "{base}", "-o", "{new}", "--rank-pattern", "=2"), "must be a pattern and a number"),
        (("adapt", "{base}", "-o", "{new}", "--rank-pattern", "9=2"), "rank_pattern: nothing adapted matches '9'"),
        (("adapt", "{base}", "-o", "{new}", "--rank", "2", "--alpha", "nan"), "alpha must be finite"),
        (("adapt", "{base}", "-o", "{new}", "--rank", "2", "--unfreeze", "x*"), "unfreeze: no parameter matches 'x*'"),
        (("adapt", "{run}/none.onnx", "-o", "{new}"), "none.onnx"),
        (("adapt", "{data}", "-o", "{new}"), "not an ONNX model"),
        (("train", "{run}", "--data", "{data}", "--output", "z"), "output must be one of y, got 'z'"),
        (("train", "{run}", "--data", "{data}", "--epochs", "-1"), "epochs must be at least 0"),
        (("train", "{run}", "--data", "{data}", "--lr", "nan"), "lr must be finite"),
        (("train", "{run}", "--data", "{data}", "--accumulate", "0"), "accumulate must be at least 1"),
        (("train", "{run}", "--data", "{data}"), "mse: targets must have the shape"),
        (("train", "{run}", "--data", "{run}/none.npz"), "none.npz"),
        (("train", "{run}", "--data", "{base}"), "base.onnx"),
        (("train", "{run}", "--data", "{data}", "--loss", "x"), "loss must be one of"),
        (("train", "{tmp}", "--data", "{data}"), "not a run"),
        (("merge", "{tmp}", "-o", "{new}"), "not a run"),
        (("merge", "{run}", "-o", "{new}", "--rank", "2"), "--rank is for DyLoRA adapters, and AdaptedSequential has"),
        (("export", "{run}", "-o", "{new}", "--layout", "rows"), "--layout belongs to --form multi-adapter"),
        (("export", "{tmp}", "-o", "{new}"), "not a run"),
    ],
)
def test_mistakes_are_one_line_and_leave_no_trace(
    arguments: tuple[str, ...], words: str, base: Path, data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert call("adapt", base, "-o", run, "--rank", 2).exit_code == 0
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    places = {"base": base, "run": run, "new": tmp_path / "new", "data": data, "tmp": tmp_path}
    result = call(*(argument.format(**places) for argument in arguments))
    assert result.exit_code == 2, result.output
    assert words in result.output
    assert len(result.output.splitlines()) == 1
    assert not (tmp_path / "new").exists()
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_a_rank_of_dylora_is_chosen_in_merging(base: Path, data: Path, tmp_path: Path) -> None:
    run, x = tmp_path / "run", np.load(data)["inputs"]
    made = call("adapt", base, "-o", run, "--adapter", "dylora", "--rank", 2, "--ranks", "1,2")
    assert made.exit_code == 0, made.output
    trained = call("train", run, "--data", data, "--loss", "cross_entropy", "--epochs", 4, "--lr", 0.02)
    assert trained.exit_code == 0, trained.output
    model = load(run)
    adapter = model.eval().adapters["default"]
    assert isinstance(adapter, lg.DyLoRAAdapter)
    for rank in (1, 2):
        merged = call("merge", run, "-o", tmp_path / "merged.onnx", "--rank", rank, "--json")
        assert json.loads(merged.output)["adapters"] == [f"default: dylora rank {rank}"]
        adapter.set_deployment_rank(rank)
        found = lg.Session(tmp_path / "merged.onnx").run(x)
        np.testing.assert_allclose(found, model.forward(x), rtol=1e-5, atol=1e-5)
    wrong = call("merge", run, "-o", tmp_path / "new.onnx", "--rank", 3)
    assert (wrong.exit_code, wrong.output) == (2, "error: rank must be one of the active ranks [1, 2], got 3\n")
    assert not (tmp_path / "new.onnx").exists()


def test_a_run_whose_base_has_moved_says_so(base: Path, tmp_path: Path) -> None:
    assert call("adapt", base, "-o", tmp_path / "run", "--rank", 2).exit_code == 0
    base.rename(tmp_path / "moved.onnx")
    result = call("merge", tmp_path / "run", "-o", tmp_path / "m.onnx")
    assert (result.exit_code, len(result.output.splitlines())) == (2, 1)
    assert f"its base {base} is not there" in result.output


def test_a_run_whose_base_has_changed_is_refused(base: Path, data: Path, tmp_path: Path) -> None:
    assert call("adapt", base, "-o", tmp_path / "run", "--rank", 2).exit_code == 0
    lg.export_onnx(lg.Sequential([lg.DenseLayer(6, 8, rng=5), lg.DenseLayer(8, 3, rng=6)]), base)
    result = call("train", tmp_path / "run", "--data", data)
    assert result.exit_code == 2
    assert "trained on another base" in result.output
    base.unlink()
    assert "base.onnx" in call("merge", tmp_path / "run", "-o", tmp_path / "m.onnx").output
