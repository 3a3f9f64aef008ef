"""What a device needs to go on learning: one training step as ONNX, and the images that it is to learn.

    python examples/train_on_device/export.py FOLDER

A classifier knows handwritten digits; on the device they are turned and inverted, and LoRA of rank 4 learns those. The
step then runs wherever ONNX Runtime does: see train.py (Python) and train.mjs (JavaScript) beside this file.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import lora_graph as lg
from lora_graph import data


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    digits = data.split()
    classifier = lg.Sequential([lg.DenseLayer(64, 128, "relu", rng=0), lg.DenseLayer(128, 10, rng=1)])
    lg.fit(classifier, digits.train, loss="cross_entropy", epochs=20)
    adapted = lg.adapt(classifier, rank=4, rng=0)
    files = lg.export_training_graph(adapted, "cross_entropy", lg.AdamW(5e-3), folder / "training.onnx")
    for part, (images, labels) in zip(("train", "test"), digits, strict=True):
        data.changed_task(images).tofile(folder / f"{part}_images.bin")
        labels.tofile(folder / f"{part}_labels.bin")
    for path in (files.step, files.start, files.evaluation):
        print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()))
