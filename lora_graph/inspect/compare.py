"""Running a model in every way there is, and comparing what comes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lora_graph import checks
from lora_graph.inspect.cases import Case, cases
from lora_graph.inspect.differences import Difference, Tolerance, difference
from lora_graph.inspect.engines import Engine, Given, Interpreter, Program, Runtime, State, program_of
from lora_graph.inspect.lint import Looked, look
from lora_graph.inspect.locate import first_divergence, precision, precisions, random_values
from lora_graph.inspect.passes import departure, first_pass
from lora_graph.inspect.report import CheckReport, Comparison
from lora_graph.inspect.subject import Subject, label_of
from lora_graph.ir.graph import Graph
from lora_graph.ir.opaque import Opaque
from lora_graph.ir.types import Array
from lora_graph.layers.layer import Layer
from lora_graph.onnx.source import ModelSource

REFERENCE, AS_IS, OPTIMIZED, MERGED = "reference", "runtime as is", "runtime optimized", "merged"


def check(
    model: Layer | ModelSource,
    *,
    adapter: str | PathLike[str] | None = None,
    base_weights: Mapping[str, npt.ArrayLike] | None = None,
    inputs: Mapping[str, npt.ArrayLike] | None = None,
    batch_sizes: Sequence[int] = (1, 7),
    sizes: Mapping[str, int] | None = None,
    seed: int = 0,
    atol: float = 0.0,
    rtol: float | None = None,
) -> CheckReport:
    """Whether ``model``, a layer or an ONNX model, computes the same wherever it runs.

    What its outputs are is computed op by op with NumPy in float64. With that are compared the compiled interpreter and
    ONNX Runtime, with all its optimizations disabled and enabled; and where there are adapters that can be merged, the
    merged model with the parallel one. Where a difference is larger than ``atol + rtol · max|expected|``, the report
    names the first value that diverges. ``rtol`` is by default that of the narrowest float that is computed in: 1e-12
    for float64, 1e-5 for float32, 1e-2 for float16, 1e-1 for bfloat16. Integers and bools have to be equal.

    Inputs are random, seeded, at each of ``batch_sizes``; other named dimensions are 16, or what ``sizes`` says; or the
    inputs are ``inputs``. A model of a form runs in each way that it can: see ``docs/check.md``.

    The file or folder ``adapter`` is looked through first (see :func:`lint_adapter`, also for ``base_weights``); where
    it fits, it is the model with this adapter that is checked.

    TypeError, ValueError or LoadError for what cannot be read or run at all.
    """
    rng = checks.generator(checks.integer("seed", seed, 0))
    allowed = None if rtol is None else checks.at_least_zero("rtol", rtol)
    tolerance = Tolerance(checks.at_least_zero("atol", atol), allowed)
    batches = list(dict.fromkeys(checks.integer("batch_sizes", size, 1) for size in batch_sizes))
    if not batches:
        raise ValueError("batch_sizes must name at least one size, got none")
    fixed = {name: checks.integer(f"sizes[{name!r}]", size, 0) for name, size in (sizes or {}).items()}
    looked = Looked((), model) if adapter is None else look(model, Path(adapter), base_weights or {})
    if any(finding.severity == "error" for finding in looked.findings):
        return CheckReport(label_of(model), "", (), (), looked.findings)
    subject = Subject.of(looked.model)
    if inputs is None:
        chosen = list(cases(subject.program.graph, subject.metadata, batches, fixed, rng, looked.matrices))
    else:
        chosen = [_given_case(subject.program.graph, inputs, looked.matrices)]
    return replace(compared(subject, chosen, tolerance), model=label_of(model), findings=looked.findings)


def _given_case(graph: Graph, inputs: Mapping[str, npt.ArrayLike], matrices: Mapping[str, Array]) -> Case:
    required = {name: array for name, array in matrices.items() if name in graph.input_names}
    overrides = {name: array for name, array in matrices.items() if name not in required}
    return Case("given inputs", Given({**required, **{n: np.asarray(array) for n, array in inputs.items()}}, overrides))


@dataclass
class _Pair:
    """Two ways to compute the same, and what came of it; without ``expected`` it is the reference."""

    found: Engine
    expected: Engine | None = None
    differences: dict[str, dict[str, Difference]] = field(default_factory=dict)
    """By output and case."""


def compared(subject: Subject, chosen: Sequence[Case], tolerance: Tolerance) -> CheckReport:
    """The report for ``subject`` on the cases that were chosen."""
    graph = subject.program.graph
    left_out = random_values(graph)
    outputs = [name for name, value in graph.outputs.items() if value not in left_out]
    if not outputs:
        raise ValueError(f"{subject.label}: nothing can be compared: all outputs depend on numbers that ops draw")
    notes = [
        f"{name} is not compared: it depends on random numbers that an op draws by itself"
        for name in graph.outputs
        if name not in outputs
    ]
    merged, why_not = subject.merged()
    pairs = _pairs(subject, merged)
    nan = _run(subject.program, chosen, pairs, outputs)
    notes += [*nan, *_opaque_notes(graph), *([why_not] if why_not else [])]
    comparisons = [c for pair in pairs for c in _comparisons(subject.program, pair, chosen, tolerance, outputs)]
    labels = tuple(case.label for case in chosen)
    return CheckReport(subject.label, _truth(subject.program), labels, tuple(comparisons), notes=tuple(notes))


def _pairs(subject: Subject, merged: ModelSource | None) -> list[_Pair]:
    optimized = Runtime(OPTIMIZED, subject.source, subject.written, optimize=True)
    as_is = Runtime(AS_IS, subject.source, subject.written, optimize=False)
    pairs = [_Pair(Interpreter(subject.program)), _Pair(as_is), _Pair(optimized)]
    if merged is not None:
        pairs.append(_Pair(Runtime(MERGED, merged, program_of(merged), optimize=True), optimized))
    return pairs


def _run(program: Program, chosen: Sequence[Case], pairs: Sequence[_Pair], outputs: Sequence[str]) -> list[str]:
    """Run everything on every case; notes on what is not finite."""
    notes = []
    for case in chosen:
        found: dict[str, State] = {pair.found.name: pair.found.outputs(case.given) for pair in pairs}
        expected = program.reference(case.given)  # last, for the others have the better messages about bad inputs
        for name in outputs:
            dtype = program.graph.outputs[name].dtype
            for pair in pairs:
                other = expected if pair.expected is None else found[pair.expected.name]
                apart = difference(found[pair.found.name][name], other[name], dtype)
                pair.differences.setdefault(name, {})[case.label] = apart
            if not np.isfinite(expected[name]).all():
                notes.append(f"{name} holds values that are not finite ({case.label})")
    return notes


def _comparisons(
    program: Program, pair: _Pair, chosen: Sequence[Case], tolerance: Tolerance, outputs: Sequence[str]
) -> list[Comparison]:
    narrowest = precisions(program.graph)
    dtypes = {name: precision(program.graph.outputs[name], narrowest) for name in outputs}
    wrong = {
        case.label: [n for n in outputs if not tolerance.allows(pair.differences[n][case.label], dtypes[n])]
        for case in chosen
    }
    cause = ""
    for case in chosen:
        if wrong[case.label]:
            cause = _located(program, pair, case.given, tolerance, wrong[case.label])
            break
    found = []
    for name in outputs:
        apart = pair.differences[name]
        worst = max(apart, key=lambda label: (name in wrong[label], apart[label].relative))
        is_within = not any(name in names for names in wrong.values())
        found.append(
            Comparison(
                output=name,
                dtype=program.graph.outputs[name].dtype.name,
                found=pair.found.name,
                expected=REFERENCE if pair.expected is None else pair.expected.name,
                absolute=max(each.absolute for each in apart.values()),
                relative=max(each.relative for each in apart.values()),
                ulp=max(each.ulp for each in apart.values()),
                case=worst,
                tolerance=tolerance.bound(dtypes[name], apart[worst].scale),
                within=is_within,
                cause="" if is_within else cause,
            )
        )
    return found


def _located(program: Program, pair: _Pair, given: Given, tolerance: Tolerance, outputs: Sequence[str]) -> str:
    """Where the difference begins, in words; "" where that cannot be told."""
    for engine in [pair.found, *([] if pair.expected is None else [pair.expected])]:
        preset = {Interpreter.name: "inference", MERGED: ""}.get(engine.name, "export")
        is_rewritten = engine.program is not program or engine.name == Interpreter.name
        culprit = first_pass(program, preset, given, tolerance, outputs) if preset and is_rewritten else ""
        if culprit:
            return f"the pass {culprit!r} of {preset!r} changes what is computed, in float64 as well"
        changed = departure(program, engine.program.reference(given), given, tolerance, outputs)
        if changed is not None:
            what, (name, apart) = "merging" if engine.name == MERGED else "exporting", changed
            return f"{what} changes what is computed: {name} differs by {apart.absolute:.3g} in float64 as well"
        divergence = first_divergence(engine, given, tolerance, outputs)
        if divergence is not None:
            return f"the first value that diverges is {divergence}"
    return ""


def _truth(program: Program) -> str:
    """What the reference is, and which ops in it are not evaluated in float64."""
    narrow = sorted({v.op.label if isinstance(v.op, Opaque) else v.op.name for v in program.wide.narrow})
    but = f", but {', '.join(narrow)} in their own precision" if narrow else ""
    return f"every op in turn with NumPy in float64{but}"


def _opaque_notes(graph: Graph) -> list[str]:
    labels = sorted({v.op.label for v in graph.values if isinstance(v.op, Opaque) and v.op.is_pure})
    return [f"{label} runs in ONNX Runtime everywhere, so what it gives is compared with itself" for label in labels]
