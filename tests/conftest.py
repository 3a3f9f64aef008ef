"""What all tests share."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
    # before NumPy is imported: tests run in parallel, and the bits of matrix products depend on the thread count
    os.environ[_variable] = "1"

import numpy as np  # noqa: E402
import pytest  # noqa: E402


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How many random geometries each combination of base, adapter and site ran with, where tests counted them."""
    counts: Counter[str] = Counter()
    for report in terminalreporter.getreports("passed"):
        for name, ran in report.user_properties:
            if name == "geometries":
                counts.update(ran)
    if counts:
        terminalreporter.section("base × adapter × site: geometries that ran")
        width = max(map(len, counts))
        for combination, number in counts.items():
            terminalreporter.line(f"{combination:<{width}}  {number}")
