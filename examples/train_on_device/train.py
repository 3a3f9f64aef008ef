"""Fine-tune on a device that has only ONNX Runtime and NumPy: python train.py FOLDER (what export.py wrote)."""

import sys
from pathlib import Path

import numpy as np
import onnxruntime

folder = Path(sys.argv[1])
train_x, test_x = (np.fromfile(folder / f"{p}_images.bin", np.float32).reshape(-1, 64) for p in ("train", "test"))
train_y, test_y = (np.fromfile(folder / f"{p}_labels.bin", np.int64) for p in ("train", "test"))
step, start, evaluation = (
    onnxruntime.InferenceSession(folder / f"training{part}.onnx") for part in ("", ".start", ".eval")
)


def names(items):
    return [item.name for item in items]


def accuracy(state):
    wanted = {name: state[name] for name in names(evaluation.get_inputs()) if name in state}
    return (evaluation.run(None, {"x": test_x, **wanted})[0].argmax(axis=1) == test_y).mean()


state = dict(zip(names(start.get_outputs()), start.run(None, {}), strict=True))
print(f"before: {accuracy(state):.1%} of {len(test_y)} test images")
for epoch in range(10):
    order = np.random.default_rng(epoch).permutation(len(train_y))
    for batch in np.array_split(order, len(order) // 32):
        feeds = {"x": train_x[batch], "target": train_y[batch], "learning_rate": np.array(5e-3)}
        found = dict(zip(names(step.get_outputs()), step.run(None, {**feeds, **state}), strict=True))
        state = {name: found[f"next/{name}"] for name in state}
    print(f"epoch {epoch + 1}: loss {found['loss']:.3f}, {accuracy(state):.1%}")
np.savez(folder / "state.npz", **state)
