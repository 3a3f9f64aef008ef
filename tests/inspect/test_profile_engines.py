"""How engines take turns, and what counts of their runs."""

from __future__ import annotations

import gc

import pytest

from lora_graph.inspect.cost import Costs
from lora_graph.inspect.profile_engines import BLOCKS, measure
from lora_graph.inspect.profile_report import NodeTime, Seconds, spread
from lora_graph.ir import Graph


class Recorder:
    """An engine whose timed run number n takes n + 1 seconds, half of them in its only node."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log, self.count = name, log, 0
        self.costs = Costs(Graph((), {}), {})

    def run(self) -> None:
        assert not gc.isenabled()
        self.log.append(self.name)

    def run_timed(self) -> None:
        self.log.append(f"{self.name} timed")
        self.count += 1

    def timed(self) -> tuple[tuple[NodeTime, ...], Seconds]:
        runs = tuple(float(n + 1) for n in range(self.count))
        return (NodeTime("a", "Add", "", tuple(run / 2 for run in runs)),), runs

    def close(self) -> None:
        raise AssertionError("whoever opened an engine closes it")


def test_one_engine_runs_at_a_stretch_and_its_first_runs_do_not_count() -> None:
    log: list[str] = []
    (timing,) = measure([Recorder("a", log)], warmup=2, repeat=3)
    assert log == ["a"] * 5 + ["a timed"] * 5
    assert timing.runs == (3.0, 4.0, 5.0)
    assert timing.nodes[0].seconds == (1.5, 2.0, 2.5)
    assert len(timing.plain) == 3
    assert timing.outside == (1.5, 2.0, 2.5)
    assert timing.share(timing.nodes[0]) == 0.5
    assert gc.isenabled()


@pytest.mark.parametrize("repeat", [1, 3, 4, 10])
def test_two_engines_take_turns(repeat: int) -> None:
    log: list[str] = []
    timings = measure([Recorder("a", log), Recorder("b", log)], warmup=1, repeat=repeat)
    turns = [name for name, before in zip(log, [None, *log], strict=False) if name != before]
    assert turns == ["a", "a timed", "b", "b timed"] * min(BLOCKS, repeat)
    for timing, name in zip(timings, "ab", strict=True):
        assert timing.engine == name
        assert len(timing.runs) == len(timing.plain) == repeat
        assert timing.runs[0] == 2.0
    assert log.count("a") == repeat + min(BLOCKS, repeat)


def test_a_spread() -> None:
    assert spread([3.0]) == {"median": 3.0, "low": 3.0, "high": 3.0}
    assert spread([5.0, 1.0, 2.0, 3.0, 4.0]) == {"median": 3.0, "low": 2.0, "high": 4.0}
