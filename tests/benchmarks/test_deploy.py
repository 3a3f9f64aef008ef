"""Every contender of the benchmark computes what it is to compute before it is timed."""

from __future__ import annotations

import json

import pytest

from benchmarks import deploy


@pytest.mark.parametrize("name", deploy.CONTENDERS)
def test_a_contender_is_checked_and_timed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    deploy.work(name, batch=3, repeat=2)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(found["seconds"]) == 2
    assert all(second > 0 for second in found["seconds"])
    assert bool(found["swap"]) == (name == "hot-swap, adapter")
    assert set(found["versions"]) == {"python", *deploy.NEEDS}
