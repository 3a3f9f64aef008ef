"""The encoder that benchmarks train: BERT with 6 layers of width 384, 12 heads, 22.6 M parameters with its embedding.

These are the sizes of the small sentence encoders in wide use. Its weights are drawn at random; the time of a step does
not depend on them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

VOCABULARY, LAYERS, WIDTH, HEADS, INNER = 30522, 6, 384, 12, 1536
RANK, ALPHA = 8, 16
LEARNING_RATE = 1e-3
INPUTS = ("input_ids", "attention_mask")


def data(batch: int, length: int) -> tuple[dict[str, Array], Array]:
    """Tokens with their mask, in which every other sequence is a quarter shorter, and what the encoder shall give."""
    import numpy as np

    rng = np.random.default_rng(0)
    mask = np.ones((batch, length), np.int64)
    mask[::2, length * 3 // 4 :] = 0
    tokens = rng.integers(0, VOCABULARY, (batch, length))
    return dict(zip(INPUTS, (tokens, mask), strict=True)), rng.standard_normal((batch, length, WIDTH), np.float32)


def torch_encoder() -> Any:
    """The encoder as transformers has it, without dropout."""
    import torch
    from transformers import BertConfig, BertModel

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=INNER,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return BertModel(config, add_pooling_layer=False)


def export(folder: Path) -> dict[str, Any]:
    """Write the encoder, a PEFT adapter for all its linear layers, and the adapted encoder; how long the last took."""
    import onnx
    import torch
    from peft import LoraConfig, get_peft_model

    model = torch_encoder().eval()
    parameters = sum(tensor.numel() for tensor in model.parameters())
    _export(model, folder / "base.onnx")
    adapted = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear")).eval()
    with torch.no_grad():
        for name, tensor in adapted.named_parameters():
            if "lora_B" in name:  # not zero, so that every gradient counts at once
                tensor.normal_(0, 0.01)
    adapted.save_pretrained(folder / "peft")
    started = time.perf_counter()
    _export(adapted, folder / "peft.onnx")
    seconds = time.perf_counter() - started
    nodes = len(onnx.load(folder / "peft.onnx").graph.node)
    return {"seconds": seconds, "nodes": nodes, "parameters": parameters}


def _export(model: Any, path: Path) -> None:
    import torch
    from peft import PeftModel

    inputs, _ = data(2, 8)
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("time", max=512)}
    sizes = (axes,) * len(inputs)
    torch.onnx.export(
        model,
        tuple(torch.from_numpy(array) for array in inputs.values()),
        path,
        input_names=INPUTS,
        output_names=["last_hidden_state"],
        dynamic_shapes={"args": sizes} if isinstance(model, PeftModel) else sizes,
        dynamo=True,
        external_data=False,
    )


def torch_step(adapter: Path, inputs: Mapping[str, Array], target: Array, device: str = "cpu") -> Callable[[], float]:
    """One step of Adam on the adapter in the folder ``adapter``; returns the loss before it."""
    import torch
    from peft import PeftModel

    model = PeftModel.from_pretrained(torch_encoder(), adapter, is_trainable=True).to(device)
    trained = [tensor for tensor in model.parameters() if tensor.requires_grad]
    optimizer = torch.optim.Adam(trained, LEARNING_RATE)

    def step() -> float:
        optimizer.zero_grad()
        tensors = {name: torch.from_numpy(array).to(device) for name, array in inputs.items()}
        wanted = torch.from_numpy(target).to(device)
        loss = torch.nn.functional.mse_loss(model(**tensors).last_hidden_state, wanted)
        loss.backward()
        optimizer.step()
        return float(loss.item())

    return step
