"""The network of benchmarks.mlp with the LoRA training of onnxsim: a step graph that it makes and ONNX Runtime runs.

``inject_lora`` puts A and B beside the weights, ``compile_training_loop`` makes the step graph. That loop allocates the
new parameters and moments anew at each step; onnxsim's own ``BoundStepLoop`` has two buffers for each that change
places, and of the two it is the one that is measured.
"""

from __future__ import annotations

from typing import Any

from benchmarks import harness
from benchmarks.mlp import LEARNING_RATE, Array, Problem, Step

OPSET, IR_VERSION = 17, 8
"""Those that onnxsim writes step graphs in."""


def onnxsim_step(problem: Problem) -> Step:
    """onnxsim's step graph on ONNX Runtime, with the batch fed at each step."""
    import numpy as np
    import onnxsim
    from onnxsim import backend, qat_graph

    _pin_threads(backend.rt)
    model, adapter = onnxsim.inject_lora(_network(problem), rank=problem.rank)
    loop = onnxsim.compile_training_loop(_with_loss(model, problem), "loss", adapter.parameter_names())
    compiled = loop.step_graph
    runner = backend.Runner(compiled.model, output_names=[*compiled.state.values(), compiled.loss_name])
    initial = loop.initial_state
    bound = runner.bind_loop({}, {name: (result, initial[name]) for name, result in compiled.state.items()})
    if bound is None:
        raise RuntimeError("onnxsim could not bind its step graph")
    rate = np.float32(LEARNING_RATE)
    count = 0

    def step(x: Array, t: Array) -> float:
        nonlocal count
        corrections = {
            name: np.asarray(value, np.float32) for name, value in qat_graph.adam_bias_corrections(count).items()
        }
        count += 1
        return float(bound.step({"x": x, "t": t, "lr": np.asarray(rate), **corrections})[compiled.loss_name])

    return step


def _pin_threads(onnxruntime: Any) -> None:
    """Let sessions have as many threads as the others; onnxsim has no option for it."""
    make = onnxruntime.SessionOptions

    def options() -> Any:
        made = make()
        made.intra_op_num_threads = harness.threads()
        return made

    onnxruntime.SessionOptions = options


def _network(problem: Problem) -> Any:
    """The frozen layers as an ONNX model."""
    from onnx import TensorProto, helper, numpy_helper

    nodes = []
    last = len(problem.layers) - 1
    value = "x"
    for index in range(last + 1):
        product, result = f"product{index}", "y" if index == last else f"sum{index}"
        nodes.append(helper.make_node("MatMul", [value, f"{index}.W"], [product]))
        nodes.append(helper.make_node("Add", [product, f"{index}.b"], [result]))
        if index < last:
            value = f"hidden{index}"
            nodes.append(helper.make_node("Relu", [result], [value]))
    frozen = [name for name in problem.parameters if name.endswith(("W", "b"))]
    weights = [numpy_helper.from_array(problem.initial(name), name) for name in frozen]
    batch = [problem.batch, problem.width]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, batch)] for name in ("x", "y")]
    graph = helper.make_graph(nodes, "mlp", *ends, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def _with_loss(model: Any, problem: Problem) -> Any:
    """The model with the mean squared error for its output, and A and B as they are to be at the start."""
    from onnx import TensorProto, helper, numpy_helper

    starts = {f"{i}.W.lora_{kind}": f"{i}.{kind}" for i in range(len(problem.layers)) for kind in "AB"}
    graph = model.graph
    for tensor in graph.initializer:
        if tensor.name in starts:
            tensor.CopyFrom(numpy_helper.from_array(problem.initial(starts[tensor.name]), tensor.name))
    graph.input.append(helper.make_tensor_value_info("t", TensorProto.FLOAT, [problem.batch, problem.width]))
    graph.node.extend(
        [
            helper.make_node("Sub", ["y", "t"], ["error"]),
            helper.make_node("Mul", ["error", "error"], ["square"]),
            helper.make_node("ReduceMean", ["square"], ["loss"], keepdims=0),
        ]
    )
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("loss", TensorProto.FLOAT, []))
    return model
