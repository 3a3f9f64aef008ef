"""Running models with ONNX Runtime, on the providers that were asked for and no others."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from lora_graph import checks
from lora_graph.errors import LoadError
from lora_graph.ir import dims
from lora_graph.ir.types import Array, TensorType, type_of
from lora_graph.layers.layer import Layer
from lora_graph.onnx.export import export_onnx
from lora_graph.onnx.source import ModelSource, Script
from lora_graph.onnx.store import save_model, weight_bytes
from lora_graph.onnx.swap import Chosen, Swap

CUDA_HINT = "it comes with the package onnxruntime-gpu, in place of onnxruntime"
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
"""Short names; the full name of any provider is understood as well."""

ENDS_THE_PROCESS = {"LSTM", "GRU"}
"""Ops that ONNX Runtime 1.31 cannot run on an empty batch: they end the process, with no error to catch."""

Content: TypeAlias = str | os.PathLike[str] | bytes | onnx.ModelProto

SLOW = {"CPUExecutionProvider": ["SkipLayerNormFusion"]}
"""Optimizations that are none: on a CPU the fused kernel takes 3 to 6 times as long as Add and LayerNormalization.

Measured with ONNX Runtime 1.31 and one thread at 1,024 rows of 64 to 768; a BERT of 6 layers gains 5 %.
"""

INLINE_LIMIT = 2**31 - 2**24
"""Bytes of weights of a model that is handed over in memory; a larger one goes through a temporary file."""


class Session:
    """An ONNX model, or a layer exported in parallel form, ready to run.

    ``provider`` is one name or several in order of preference; the CPU takes the ops that none of them has.
    ``threads`` bounds the threads of one op; without ``optimize`` every node runs as it stands in the file. Raises
    ValueError for a provider that is not available, LoadError for a model that ONNX Runtime does not take.
    """

    def __init__(
        self,
        model: ModelSource | Layer,
        provider: str | Sequence[str] = "cpu",
        *,
        threads: int | None = None,
        optimize: bool = True,
    ) -> None:
        wanted = wanted_providers(provider)
        options = self._options(threads, optimize)
        if isinstance(model, Layer):
            model = export_onnx(model)
        elif isinstance(model, Script):
            model = model.to_model_proto()
        self._session = _open(model, options, wanted)
        self._unfit_for_empty = sorted(_op_types(model) & ENDS_THE_PROCESS)
        self._providers = self._session.get_providers()
        missing = [name for name in wanted if name not in self._providers]
        if missing:
            raise ValueError(f"provider {missing[0]} could not be started; {_available_text()}")
        self._inputs = {item.name: _type(item) for item in self._session.get_inputs()}
        self._outputs = {item.name: _type(item) for item in self._session.get_outputs()}
        self._overridable = {item.name: _type(item) for item in self._session.get_overridable_initializers()}
        self._swap = Swap(self._overridable, self._session.get_modelmeta().custom_metadata_map)

    def _options(self, threads: int | None, optimize: bool) -> Any:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what it calls an error is raised
        if threads is not None:
            options.intra_op_num_threads = checks.integer("threads", threads, 1)
        if not checks.flag("optimize", optimize):
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return options

    @property
    def providers(self) -> list[str]:
        """What runs the model, in order of preference."""
        return list(self._providers)

    @property
    def inputs(self) -> dict[str, TensorType]:
        """The types of the inputs, by name."""
        return dict(self._inputs)

    @property
    def optional_inputs(self) -> dict[str, TensorType]:
        """The types of what may be given and has a default, such as the weights of ``form="weighted"``, by name."""
        return dict(self._overridable)

    @property
    def outputs(self) -> dict[str, TensorType]:
        """The types of the outputs, by name."""
        return dict(self._outputs)

    def __repr__(self) -> str:
        takes, gives = (", ".join(f"{n} {t}" for n, t in io.items()) for io in (self._inputs, self._outputs))
        return f"<Session: {takes} -> {gives} on {', '.join(self._providers)}>"

    @property
    def adapters(self) -> tuple[str, ...]:
        """The names of the adapters that are loaded."""
        return self._swap.names

    def load_adapter(self, path: str | os.PathLike[str], name: str | None = None, *, partial: bool = False) -> str:
        """Load an ``.onnx_adapter`` file for :meth:`run` to choose; it is called ``name``, or what the file is called.

        LoadError for a file that is damaged, that was made for another base, or whose arrays are not those that the
        model takes, in name, dtype and shape; ``partial`` allows some to be missing, which then stay as the model has
        them. ValueError for a name that is loaded already, and for a model that takes no adapters.
        """
        self._open()
        return self._swap.load(path, name, checks.flag("partial", partial))

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter; runs that have begun with it end with it."""
        self._swap.unload(name)

    def run(self, inputs: Any, adapter: Chosen = None) -> Any:
        """The outputs for an array (if the model has one input) or a dict of arrays by input name.

        ``adapter`` is the name of a loaded adapter, or several names whose adapters set nothing in common.

        Floats are cast to the model's dtype. One output comes back as an array, several as a dict by name. Raises
        ValueError naming the input for a missing or unknown name, a wrong rank or a wrong size, and for inputs that the
        model fails on, as LSTM and GRU do on empty ones; TypeError for numbers of another kind.
        """
        running = self._open()
        given = inputs if isinstance(inputs, Mapping) else self._single(inputs)
        unknown = [name for name in given if name not in self._inputs and name not in self._overridable]
        missing = [name for name in self._inputs if name not in given]
        if unknown or missing:
            problem = f"unknown input {unknown[0]!r}" if unknown else f"input {missing[0]!r} is missing"
            raise ValueError(f"{problem}; the model's inputs are {', '.join(map(repr, self._inputs))}")
        binding: dict[str, int] = {}
        types = {**self._inputs, **{name: self._overridable[name] for name in given if name in self._overridable}}
        feeds = {name: _fit(name, given[name], type_, binding) for name, type_ in types.items()}
        empty = [f"{name!r} is {type_of(array)}" for name, array in feeds.items() if not array.size]
        if empty and self._unfit_for_empty:
            raise ValueError(f"ONNX Runtime has no {self._unfit_for_empty[0]} of empty inputs, but {empty[0]}")
        active = self._swap.choose(adapter, feeds)
        options = onnxruntime.RunOptions()
        for loaded in active:
            options.add_active_adapter(loaded.native)
        try:
            results = running.run(None, feeds, options)
        except Exception as error:  # ONNX Runtime's own exceptions have no common base class but this one
            shapes = ", ".join(f"{name}: {type_of(array)}" for name, array in feeds.items())
            raise ValueError(f"ONNX Runtime cannot run the model on {shapes}: {str(error).splitlines()[0]}") from error
        if len(results) == 1:
            return results[0]
        return dict(zip(self._outputs, results, strict=True))

    def _open(self) -> Any:
        if self._session is None:
            raise RuntimeError("the session is closed")
        return self._session

    def close(self) -> None:
        """Release the model's memory; running it afterwards is an error."""
        self._session = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _single(self, array: Any) -> dict[str, Any]:
        if len(self._inputs) != 1:
            names = ", ".join(map(repr, self._inputs))
            raise ValueError(f"a model with {len(self._inputs)} inputs takes a dict of arrays by name: {names}")
        return {next(iter(self._inputs)): array}


def wanted_providers(provider: str | Sequence[str]) -> list[str]:
    """The full names of providers; ValueError for one that is not available, listing those that are."""
    names = [provider] if isinstance(provider, str) else provider
    if not isinstance(names, Sequence) or not names or not all(isinstance(name, str) for name in names):
        raise TypeError(f"a provider is a name or a list of names, got {provider!r}")
    wanted = [PROVIDERS.get(name.lower(), name) for name in names]
    for name, full in zip(names, wanted, strict=True):
        if full not in onnxruntime.get_available_providers():
            hint = f"; {CUDA_HINT}" if full == PROVIDERS["cuda"] else ""
            raise ValueError(f"provider {name!r} is not available; {_available_text()}{hint}")
    return wanted


def _available_text() -> str:
    short = {full: name for name, full in PROVIDERS.items()}
    return f"available: {', '.join(short.get(name, name) for name in onnxruntime.get_available_providers())}"


def _open(model: Content, options: Any, providers: list[str]) -> Any:
    if isinstance(model, str | os.PathLike):
        if not Path(model).is_file():
            raise LoadError(f"{os.fspath(model)}: no such file")
        return start(str(Path(model)), str(model), options, providers)
    if isinstance(model, bytes | bytearray | memoryview):
        return start(bytes(model), "the model", options, providers)
    if not isinstance(model, onnx.ModelProto):
        raise TypeError(f"a model is a path, bytes, an onnx.ModelProto or a Layer, not {type(model).__name__}")
    if weight_bytes(model) <= INLINE_LIMIT:
        return start(model.SerializeToString(), "the model", options, providers)
    with tempfile.TemporaryDirectory(prefix="lora_graph-") as folder:
        path = Path(folder, "model.onnx")
        save_model(model, path)
        return start(str(path), "the model", options, providers)


def _op_types(model: Content) -> set[str]:
    """The types of all nodes, those of subgraphs and functions included; none for a file in another format than ONNX's.

    A path is read anew rather than handed over as bytes, for then ONNX Runtime would not find external data.
    """
    if not isinstance(model, onnx.ModelProto):
        content = Path(model).read_bytes() if isinstance(model, str | os.PathLike) else bytes(model)
        try:
            model = onnx.ModelProto.FromString(content)
        except DecodeError:
            return set()
    found: set[str] = set()
    left: list[onnx.GraphProto | onnx.FunctionProto] = [model.graph, *model.functions]
    while left:
        for node in left.pop().node:
            found.add(node.op_type)
            for attribute in node.attribute:
                left += [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]
    return found


def start(model: str | bytes, label: str, options: Any, providers: Sequence[str | tuple[str, dict[str, str]]]) -> Any:
    """A session of the model at a path or in bytes; LoadError, with its ``label``, where there can be none."""
    try:
        first = providers[0] if isinstance(providers[0], str) else providers[0][0]
        return onnxruntime.InferenceSession(
            model, options, providers=list(providers), disabled_optimizers=SLOW.get(first)
        )
    except Exception as error:  # ONNX Runtime's own exceptions have no common base class but this one
        raise LoadError(f"{label}: ONNX Runtime cannot load it: {str(error).splitlines()[0]}") from error


def _type(item: Any) -> TensorType:
    kind = item.type.removeprefix("tensor(").removesuffix(")")
    dtype = {"float": "float32", "double": "float64"}.get(kind, kind)
    shape = [
        size if isinstance(size, int) else _dimension(size or f"{item.name}_{axis}")
        for axis, size in enumerate(item.shape)
    ]
    return TensorType(np.dtype(dtype), tuple(shape))


def _dimension(text: str) -> dims.Dim:
    try:
        return dims.dim(text)
    except ValueError:
        return dims.dim(repr(text))


def _fit(name: str, given: Any, type_: TensorType, binding: dict[str, int]) -> Array:
    """``given`` as an array of ``type_``; ``binding`` collects the sizes that named dimensions have."""
    array = np.asarray(given)
    if array.dtype != type_.dtype:
        if array.dtype.kind not in ("fiub" if type_.is_float else "iu" if type_.dtype.kind in "iu" else ""):
            raise TypeError(f"input {name!r} must be {type_}, got {array.dtype.name}{list(array.shape)}")
        array = array.astype(type_.dtype)
    if not dims.fits(type_.shape, array.shape, binding):
        raise ValueError(f"input {name!r} must be {type_}, got shape {list(array.shape)}")
    return array
