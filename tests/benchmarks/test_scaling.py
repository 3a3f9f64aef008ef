"""The points whose times are compared, and what is computed at them."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest

from benchmarks import harness, scaling
from benchmarks.mlp import Problem
from benchmarks.mlp_lora_graph import dylora_model, lora_graph_model, training_step
from benchmarks.scaling import AXES, BASE, Point


def test_one_size_is_changed_at_a_time() -> None:
    for axis, points in AXES.items():
        sizes = [getattr(point, axis) for point in points]
        assert sizes == sorted(set(sizes))
        assert {astuple(Point(**{**vars(point), axis: getattr(BASE, axis)})) for point in points} == {astuple(BASE)}
    assert BASE.problem == Problem()
    assert scaling.points(["batch", "width"]).count(BASE) == 1


def test_point_survives_the_way_to_a_worker() -> None:
    point = Point(2, 16, 3, 2, 4)
    assert Point(*map(int, map(str, point.arguments))) == point
    assert point.problem == Problem(2, 16, 64, 32, 3)


def test_dylora_with_all_of_its_rank_active_is_lora() -> None:
    problem = Problem(batch=5, width=12, hidden=20, rank=4)
    x, t = problem.data()
    models = dylora_model(problem, 4), lora_graph_model(problem)
    dylora, lora = (training_step(model).run(x, t) for model in models)
    assert dylora == pytest.approx(lora, rel=1e-6)
    rest = training_step(dylora_model(problem, 2))
    hidden = np.maximum(x @ (w(problem, 0) + ab(problem, 0, 2)) + problem.initial("0.b"), 0)
    y = hidden @ (w(problem, 1) + ab(problem, 1, 2)) + problem.initial("1.b")
    assert rest.run(x, t) == pytest.approx(np.mean((y - t) ** 2), rel=1e-5)


def w(problem: Problem, index: int) -> np.ndarray:
    return problem.initial(f"{index}.W").astype(np.float64)


def ab(problem: Problem, index: int, active: int) -> np.ndarray:
    """The change of a weight at alpha = 4 = max_rank with the first ``active`` components."""
    a, b = (problem.initial(f"{index}.{kind}").astype(np.float64) for kind in "AB")
    return a[:, :active] @ b[:active]


def test_table_says_how_time_grows() -> None:
    def report(milliseconds: float) -> harness.Report:
        return {
            "seconds": [milliseconds / 1e3],
            "cpu_seconds": [0.008],
            "peak_mib": 100.0,
            "peak_above_imports_mib": 10.0,
        }

    reports = {
        point: {"lora_graph-numpy": [report(10.0 * point.threads), report(30.0)], "peft": [report(40.0), report(40.0)]}
        for point in AXES["threads"]
    }
    lines = scaling.table("threads", reports).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    columns = ("ms", "min..max", "growth", "CPU ms", "peak MiB")
    assert cells[0] == ["threads", *(f"{name} {what}" for name in ("lora_graph-numpy", "peft") for what in columns)]
    peft = ["40.0", "40.0..40.0", "1.00", "8.0", "100"]
    assert cells[2] == ["1", "20.0", "10.0..30.0", "1.00", "8.0", "100", *peft]
    assert cells[3] == ["2", "25.0", "20.0..30.0", "1.25", "8.0", "100", *peft]


def test_worker_runs_with_the_threads_of_its_point() -> None:
    point = Point(batch=2, width=48, active=8)
    arguments = ["--warmup", 2, "--steps", 3, "--point", *point.arguments]
    report = harness.run_worker(scaling.MODULE, harness.Contender("lora_graph-numpy"), arguments, threads=2)
    assert len(report["losses"]) == 2
    assert len(report["seconds"]) == 3
