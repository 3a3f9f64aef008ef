"""Fair comparisons: contenders run in their own processes, one thread each, in alternating rounds.

A benchmark is a module with two ways to be called. As ``--worker NAME`` it runs one contender and ends with
``report(...)``; without, it calls ``alternate`` to start the workers and ``compare`` to sum up. Only the standard
library is imported here, so that a worker may be any interpreter.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
MIB = 2**20

Report = dict[str, Any]


@dataclass(frozen=True)
class Contender:
    """One side of a comparison: its name, the packages it needs and the interpreter that has them."""

    name: str
    needs: tuple[str, ...] = ()
    python: str = sys.executable


class UnavailableError(Exception):
    """A contender cannot run here; the message says why."""


class Stopwatch:
    """Seconds of each call to ``step``, after ``baseline`` has noted the memory that imports alone take.

    ``cpu_seconds`` are those that all threads of the process had of the processor in each: less where it had to wait.
    """

    def __init__(self) -> None:
        self.baseline = peak_memory()
        self.cpu_seconds: list[float] = []

    def time(self, step: Callable[[], object], repeat: int) -> list[float]:
        seconds = []
        for _ in range(repeat):
            started, had = time.perf_counter(), time.process_time()
            step()
            seconds.append(time.perf_counter() - started)
            self.cpu_seconds.append(time.process_time() - had)
        return seconds

    def memory(self) -> Report:
        peak = peak_memory()
        return {"peak_mib": peak / MIB, "peak_above_imports_mib": (peak - self.baseline) / MIB}


def peak_memory() -> int:
    """The largest resident set this process has had, in bytes."""
    if sys.platform == "linux":  # where ru_maxrss starts from the peak of the process that started this one
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def report(contender: Contender, **results: Any) -> None:
    """The last line a worker prints: its results and the versions they were measured with."""
    versions = {"python": platform.python_version()}
    versions |= {name: importlib.metadata.version(name) for name in contender.needs}
    print(json.dumps({"versions": versions, **results}))


def run_worker(module: str, contender: Contender, arguments: Sequence[object], threads: int = 1) -> Report:
    """What ``python -m module --worker NAME arguments`` reports.

    UnavailableError where it cannot run here, RuntimeError with the end of its error output where it fails.
    """
    environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads))
    command = [contender.python, "-m", module, "--worker", contender.name, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{contender.name} failed with exit code {done.returncode}:\n{done.stderr[-2000:]}")
    result: Report = json.loads(done.stdout.splitlines()[-1])
    if "unavailable" in result:
        raise UnavailableError(result["unavailable"])
    return result


def require(contender: Contender) -> None:
    """Ends a worker, with the reason as its report, where a package that it needs is not installed."""
    missing = [name for name in contender.needs if importlib.util.find_spec(name) is None]
    if missing:
        give_up(f"{', '.join(missing)} not installed for {Path(sys.executable).name}")


def require_cuda(contender: Contender) -> None:
    """Ends a worker, with the reason as its report, where it has no GPU to run on."""
    if "torch" in contender.needs:
        import torch

        if not torch.cuda.is_available():
            give_up("PyTorch finds no CUDA device")
    elif "onnxruntime" in contender.needs:
        import onnxruntime

        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            give_up("ONNX Runtime has no CUDA provider (onnxruntime-gpu)")
    else:
        give_up("runs on the CPU only")


def give_up(reason: str) -> NoReturn:
    """End a worker that cannot run here."""
    print(json.dumps({"unavailable": reason}))
    raise SystemExit(0)


def threads() -> int:
    """How many threads this worker may have."""
    return int(os.environ.get(THREAD_VARIABLES[0], "1"))


def available(
    contenders: Iterable[Contender], try_out: Callable[[Contender], Report]
) -> tuple[dict[Contender, Report], dict[str, str]]:
    """A first report of each contender that can run here, and why the others cannot."""
    reports: dict[Contender, Report] = {}
    skipped: dict[str, str] = {}
    for contender in contenders:
        try:
            reports[contender] = try_out(contender)
        except UnavailableError as reason:
            skipped[contender.name] = str(reason)
            print(f"skipped {contender.name}: {reason}", flush=True)
    return reports, skipped


def alternate(
    contenders: Iterable[Contender], measure: Callable[[Contender], Report], rounds: int
) -> dict[str, list[Report]]:
    """Reports of ``rounds`` rounds, in each of which every contender runs once; every other round in reverse order."""
    order = list(contenders)
    reports: dict[str, list[Report]] = {contender.name: [] for contender in order}
    for index in range(rounds):
        for contender in order if index % 2 == 0 else reversed(order):
            reports[contender.name].append(measure(contender))
            print(f"round {index + 1}/{rounds}: {contender.name}", file=sys.stderr, flush=True)
    return reports


def parser(
    name: str, doc: str | None, counts: Mapping[str, tuple[int, str]] | None = None, rounds: int = 7
) -> argparse.ArgumentParser:
    """The options that benchmarks have in common: rounds, the worker, and ``counts`` of a default and a meaning."""
    made = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=(doc or "").splitlines()[0])
    made.add_argument("--rounds", type=int, default=rounds, help=f"processes per contender ({rounds})")
    for option, (default, meaning) in (counts or {}).items():
        made.add_argument(f"--{option}", type=int, default=default, help=f"{meaning} ({default})")
    made.add_argument("--worker", help=argparse.SUPPRESS)
    return made


def add_torch(made: argparse.ArgumentParser, packages: str = "PyTorch") -> None:
    """The option that says which interpreter runs the contenders that need ``packages``."""
    made.add_argument("--torch-python", default=sys.executable, help=f"an interpreter that has {packages}")


def add_provider(made: argparse.ArgumentParser) -> None:
    """The option that says what contenders run on."""
    made.add_argument("--provider", choices=("cpu", "cuda"), default="cpu", help="what training runs on (cpu)")


def announce(threads: str = "one thread") -> None:
    """Print the machine that all that follows is measured on."""
    here = machine()
    print(f"{here['cpu']}, {here['cores']} cores, {here['system']}; {threads} per contender", flush=True)


def machine() -> dict[str, Any]:
    """The processor, its cores and the operating system the measurements were made on."""
    return {"cpu": cpu_model(), "cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}"}


def cpu_model() -> str:
    if sys.platform == "darwin":
        return subprocess.check_output(["sysctl", "-n", "machdep.cpu.brand_string"], text=True).strip()
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def on(name: str, provider: str) -> str:
    """What results of the benchmark ``name`` on ``provider`` are called."""
    return name if provider == "cpu" else f"{name}-{provider}"


def save(name: str, **payload: Any) -> Path:
    """Writes ``results/NAME.json``: the payload (dataclasses as dicts), the machine and the day; prints where."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    content = {"date": time.strftime("%Y-%m-%d"), "machine": machine(), **payload}
    path.write_text(json.dumps(content, indent=1, default=asdict) + "\n", encoding="utf-8")
    print(f"kept in {path}")
    return path
