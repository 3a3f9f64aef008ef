"""How much of ONNX's own backend test suite runs on the NumPy interpreter, and why the rest does not."""

from __future__ import annotations

import json
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner

from lora_graph.ir.types import Array
from lora_graph.onnx.backend import LoraGraphBackend
from lora_graph.onnx.source import DEFAULT_DOMAINS, OPSETS
from lora_graph.onnx.tensors import DTYPES

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator", "real")

OPS = frozenset(
    """
    Abs Add And AveragePool BatchNormalization Cast Clip Concat Constant ConstantOfShape Conv ConvTranspose CumSum
    Div Einsum Elu Equal Erf Exp Expand Flatten GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool
    GlobalMaxPool Greater GreaterOrEqual HardSigmoid HardSwish Identity LSTM LayerNormalization LeakyRelu Less
    LessOrEqual Log LogSoftmax MatMul Max MaxPool Mean Min Mul Neg NegativeLogLikelihoodLoss Not Or PRelu Pad Pow
    RMSNormalization RNN Range Reciprocal ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare Relu Reshape ScatterElements ScatterND Selu Shape Sigmoid Sign Slice Softmax
    SoftmaxCrossEntropyLoss Softplus Split Sqrt Squeeze Sub Sum Swish Tanh Tile Transpose Trilu Unsqueeze Where
    Xor
    """.split()  # noqa: SIM905
)
"""The ops of MLPs, convolutional and recurrent networks and transformers."""

MORE_OPS = frozenset({"Attention", "RotaryEmbedding", "Dropout"})
ELEMENTS = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL})

GROUPS = {
    "core": "opset 9 to 26, tensors of float32, float64, int32, int64 and bool, core ops only",
    "more": "the same with Attention, RotaryEmbedding or Dropout",
    "real": "real models",
    "other": "everything else",
}

DataSet = tuple[Sequence[Any], Sequence[Any]]


@dataclass(frozen=True)
class SuiteCase:
    """One case of the suite: a model, and inputs with the outputs they should give."""

    name: str
    kind: str
    load: Callable[[], onnx.ModelProto]
    data: Callable[[onnx.ModelProto], Iterable[DataSet]]
    rtol: float
    atol: float

    @cached_property
    def model(self) -> onnx.ModelProto:
        return self.load()

    @property
    def ops(self) -> frozenset[str]:
        return frozenset(node.op_type for node in self.model.graph.node)

    @property
    def opset(self) -> int:
        return max((entry.version for entry in self.model.opset_import if entry.domain in DEFAULT_DOMAINS), default=0)

    def elements(self) -> set[int]:
        """The element types of inputs, outputs and initializers; 0 stands for what is no tensor."""
        graph = self.model.graph
        stored = {tensor.data_type for tensor in graph.initializer}
        return stored | {item.type.tensor_type.elem_type for item in (*graph.input, *graph.output)}

    @property
    def group(self) -> str:
        if self.kind == "real":
            return "real"
        if self.opset not in OPSETS or not self.elements() <= ELEMENTS or not self.ops <= OPS | MORE_OPS:
            return "other"
        return "core" if self.ops <= OPS else "more"

    def out_of_scope(self) -> str:
        """Why the case is not even tried, or ""."""
        if self.opset not in OPSETS:
            return f"the opset is not in {OPSETS[0]} to {OPSETS[-1]}"
        unknown = {entry.domain for entry in self.model.opset_import} - {*DEFAULT_DOMAINS}
        if unknown & {node.domain for node in self.model.graph.node}:
            return f"the ops are of the domain {min(unknown)}"
        names = {TensorProto.DataType.Name(kind) for kind in self.elements()}
        if not names <= {*DTYPES}:
            foreign = min(names - {*DTYPES})
            return f"the element type is {foreign}" if foreign != "UNDEFINED" else "inputs or outputs are no tensors"
        return ""

    def problem(self) -> str:
        """Why the case does not pass, or "" if it does."""
        excluded = self.out_of_scope()
        if excluded:
            return excluded
        try:
            prepared = LoraGraphBackend.prepare(self.model)
            for inputs, expected in self.data(self.model):
                outputs = prepared.run([as_array(item) for item in inputs])
                Runner.assert_similar_outputs([as_array(item) for item in expected], outputs, self.rtol, self.atol)
        except (ValueError, TypeError, NotImplementedError, LookupError, AssertionError) as error:
            return " ".join(str(error).split()) or type(error).__name__
        return ""


@dataclass(frozen=True)
class Outcome:
    """What came of a case; ``problem`` is empty where it passed."""

    name: str
    kind: str
    group: str
    ops: frozenset[str]
    problem: str


def suite() -> Iterator[SuiteCase]:
    """Every case of the installed onnx package."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the suite overflows and divides by zero on purpose
        found = [case for kind in KINDS for case in load_model_tests(kind=kind)]
    for case in found:
        if case.model is not None:
            load, data = (lambda case=case: case.model), (lambda model, case=case: case.data_sets)
        elif case.model_dir is not None:
            folder = Path(case.model_dir)
            load, data = (lambda path=folder: onnx.load(path / "model.onnx")), (lambda model, path=folder: stored(path))
        else:
            path = Path(onnx.__file__).parent.parent / case.url
            load, data = (lambda path=path: onnx.load(path)), (lambda model, path=path: generated(model, path))
        yield SuiteCase(case.name, case.kind, load, data, case.rtol, case.atol)


def stored(folder: Path) -> Iterator[DataSet]:
    """The inputs and outputs in the data sets of a case."""
    for data in sorted(folder.glob("test_data_set_*")):
        yield tuple(  # type: ignore[misc]
            [onnx.load_tensor(str(data / f"{kind}_{i}.pb")) for i in range(len([*data.glob(f"{kind}_*.pb")]))]
            for kind in ("input", "output")
        )


def generated(model: onnx.ModelProto, path: Path) -> Iterator[DataSet]:
    """The inputs that the suite makes up for a real model, and the outputs beside its file."""
    held = {tensor.name for tensor in model.graph.initializer}
    inputs = [Runner.generate_dummy_data(item) for item in model.graph.input if item.name not in held]
    results = range(len(model.graph.output))
    yield inputs, [onnx.load_tensor(str(path.with_name(f"{path.stem}_output_{i}.pb"))) for i in results]


def as_array(item: Any) -> Array:
    return onnx.numpy_helper.to_array(item) if isinstance(item, TensorProto) else np.asarray(item)


def measure() -> list[Outcome]:
    """The outcome of every case of the suite."""
    return [Outcome(case.name, case.kind, case.group, case.ops, case.problem()) for case in suite()]


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Cases and passes by group and by op type, and the names of the excluded cases by reason."""

    def counted(some: Iterable[Outcome]) -> dict[str, int]:
        passes = [not outcome.problem for outcome in some]
        return {"passed": sum(passes), "cases": len(passes)}

    excluded: dict[str, list[str]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.problem:
            excluded[outcome.problem].append(outcome.name)
    names = sorted({name for outcome in outcomes for name in outcome.ops})
    return {
        "onnx": onnx.__version__,
        "total": counted(outcomes),
        "groups": {group: counted(o for o in outcomes if o.group == group) for group in GROUPS},
        "ops": {name: counted(o for o in outcomes if name in o.ops) for name in names},
        "excluded": dict(sorted(excluded.items(), key=lambda item: (-len(item[1]), item[0]))),
    }


def text(report: dict[str, Any]) -> str:
    """``report`` for people: by op type, every exclusion with its reason, the totals."""
    width = max(map(len, report["ops"]))
    by_op = [f"{name:<{width}}  {n['passed']:>4} of {n['cases']:>4}" for name, n in report["ops"].items()]
    reasons = [
        line
        for reason, names in report["excluded"].items()
        for line in (f"{len(names)} × {reason}", *(f"    {name}" for name in names))
    ]
    groups = [f"{n['passed']:>5} of {n['cases']:>5}  {GROUPS[name]}" for name, n in report["groups"].items()]
    total = f"{report['total']['passed']:>5} of {report['total']['cases']:>5}  in all, onnx {report['onnx']}"
    return "\n".join(["Passes by op type", *by_op, "", "Excluded", *reasons, "", "Passes", *groups, total])


def main(arguments: Sequence[str] | None = None) -> None:
    from argparse import ArgumentParser

    parser = ArgumentParser(prog="python -m lora_graph.onnx.backend", description=__doc__)
    parser.add_argument("--report", action="store_true", required=True, help="run the suite and tell what passes")
    parser.add_argument("--json", action="store_true", help="as JSON")
    options = parser.parse_args(arguments)
    report = summary(measure())
    print(json.dumps(report, indent=1) if options.json else text(report))
