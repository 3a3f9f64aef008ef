"""The arithmetic of comparisons on made-up reports, and what happens to workers that cannot run."""

import sys
import time

import pytest

from benchmarks import harness, tables
from benchmarks.harness import Contender
from benchmarks.tables import Spread


def report(*seconds: float, peak: float = 100.0, above: float = 10.0) -> harness.Report:
    return {"seconds": list(seconds), "peak_mib": peak, "peak_above_imports_mib": above}


def test_ratio_compares_medians_within_a_round_and_then_across_rounds():
    reports = {
        "a": [report(0.001, 0.002, 0.9), report(0.004), report(0.006)],
        "b": [report(0.004), report(0.004), report(0.003, 0.003, 0.9, peak=50.0, above=7.0)],
    }
    a, b = tables.compare(reports, reference="a")
    assert a.milliseconds == Spread(pytest.approx(4), pytest.approx(2), pytest.approx(6))
    assert a.ratio == Spread(1, 1, 1)
    assert b.milliseconds == Spread(pytest.approx(4), pytest.approx(3), pytest.approx(4))
    assert b.ratio == Spread(pytest.approx(1), pytest.approx(0.5), pytest.approx(2))
    assert (b.peak_mib, b.peak_above_imports_mib) == (100, 10)


def test_table_has_a_line_per_contender_of_equal_width_and_no_empty_columns():
    lines = tables.table(tables.compare({"a": [report(0.001)], "long name": [report(0.0025)]}, "a"), "a").splitlines()
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1
    assert [cell.strip() for cell in lines[3].split("|")[1:-1]] == [
        "long name", "2.50", "2.50..2.50", "2.50", "2.50..2.50", "100", "10",
    ]  # fmt: skip


def test_share_of_the_floor_is_that_of_each_round():
    (row,) = tables.compare({"a": [report(0.004), report(0.002), report(0.010)]}, "a", floor=[2.0, 1.5, 4.0])
    assert row.of_floor == Spread(pytest.approx(0.5), pytest.approx(0.4), pytest.approx(0.75))
    (other,) = tables.compare({"a": [report(0.004) | {"cpu_seconds": [0.002]}]}, "a", [1.0], "cpu_seconds")
    assert other.of_floor == Spread(*[pytest.approx(0.5)] * 3)
    assert tables.table([row], "a").splitlines()[2].split("|")[-3:-1] == [" 0.50         ", " 0.40..0.75 "]


def test_processor_time_is_compared_beside_that_of_the_clock():
    a = report(0.004) | {"cpu_seconds": [0.002]}
    b = report(0.010) | {"cpu_seconds": [0.001, 0.003, 0.009]}
    first, second = tables.compare({"a": [a], "b": [b]}, "a")
    assert (second.ratio.median, second.cpu_ratio) == (pytest.approx(2.5), Spread(*[pytest.approx(1.5)] * 3))
    assert second.cpu == Spread(*[pytest.approx(3)] * 3)
    assert tables.compare({"a": [report(0.004)]}, "a")[0].cpu is None
    assert "| CPU ms | CPU / a |" in tables.table([first, second], "a")


def test_rounds_alternate_the_order_so_that_nobody_always_goes_first():
    called: list[str] = []

    def measure(contender: Contender) -> harness.Report:
        called.append(contender.name)
        return {"turn": len(called)}

    reports = harness.alternate([Contender("a"), Contender("b")], measure, rounds=3)
    assert called == ["a", "b", "b", "a", "a", "b"]
    assert reports == {"a": [{"turn": 1}, {"turn": 4}, {"turn": 5}], "b": [{"turn": 2}, {"turn": 3}, {"turn": 6}]}


def test_stopwatch_times_every_call_and_sees_memory_that_was_touched():
    stopwatch = harness.Stopwatch()
    calls: list[int] = []
    seconds = stopwatch.time(lambda: calls.append(1), repeat=5)
    assert len(calls) == len(seconds) == 5
    assert min(seconds) >= 0
    assert len(stopwatch.cpu_seconds) == 5
    waiting = stopwatch.time(lambda: time.sleep(0.05), repeat=1)
    assert stopwatch.cpu_seconds[-1] < waiting[0]
    headroom = stopwatch.baseline  # nothing smaller is sure to move the peak of a process that was larger before
    block = bytearray(b"x") * (headroom + 8 * harness.MIB)
    memory = stopwatch.memory()
    assert memory["peak_above_imports_mib"] >= 8
    assert memory["peak_mib"] >= len(block) / harness.MIB


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """Runs the source of a worker module as the harness would."""

    def run(source: str, contender: Contender = Contender("anyone"), *arguments: object) -> harness.Report:  # noqa: B008
        (tmp_path / "one_benchmark.py").write_text(source, encoding="utf-8")
        monkeypatch.setenv("PYTHONPATH", f"{harness.ROOT}:{tmp_path}")
        return harness.run_worker("one_benchmark", contender, arguments)

    return run


def test_worker_is_given_its_name_arguments_and_one_thread(worker):
    source = "import json, os, sys; print('noise'); print(json.dumps([sys.argv[1:], os.environ['OMP_NUM_THREADS']]))"
    assert worker(source, Contender("anyone"), "--batch", 4) == [["--worker", "anyone", "--batch", "4"], "1"]


def test_worker_reports_versions(worker):
    source = """
from benchmarks import harness
harness.report(harness.Contender("anyone", ("numpy",)), seconds=[1.0])
"""
    found = worker(source)
    assert found["seconds"] == [1.0]
    assert found["versions"]["python"] == sys.version.split()[0]
    assert set(found["versions"]) == {"python", "numpy"}


def test_contender_whose_package_is_missing_is_skipped_with_the_reason(worker, capsys):
    source = """
from benchmarks import harness
harness.require(harness.Contender("anyone", ("json", "no_such_package")))
print("this line is not reached")
"""
    reports, skipped = harness.available([Contender("anyone")], lambda contender: worker(source, contender))
    assert reports == {}
    assert skipped["anyone"].startswith("no_such_package not installed")
    assert "skipped anyone: no_such_package not installed" in capsys.readouterr().out


def test_failing_worker_is_an_error_that_shows_why(worker):
    with pytest.raises(RuntimeError, match=r"anyone failed with exit code 1:(.|\n)*ZeroDivisionError"):
        worker("1 / 0")


def test_results_name_machine_and_day(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results")
    import json

    path = harness.save("made_up", rows=tables.compare({"a": [report(0.001)]}, "a"))
    content = json.loads(path.read_text(encoding="utf-8"))
    assert path.name == "made_up.json"
    assert content["rows"][0]["milliseconds"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert set(content["machine"]) == {"cpu", "cores", "system"}
    assert content["machine"]["cpu"]
