"""Forms of deployment: what a model file lets its user choose, each made of the same graph by rewriting it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lora_graph import checks
from lora_graph.ir.types import Array
from lora_graph.layers.layer import Layer
from lora_graph.onnx.forms.deployment import Deployment
from lora_graph.onnx.forms.dynamic_rank import dynamic_rank
from lora_graph.onnx.forms.hot_swap import hot_swap, swapped, web
from lora_graph.onnx.forms.multi_adapter import multi_adapter, stacked
from lora_graph.onnx.forms.plain import merged, parallel
from lora_graph.onnx.forms.slots import adapters
from lora_graph.onnx.forms.weighted import weighted


@dataclass(frozen=True)
class Form:
    """``deploy`` makes the model, ``adapter`` what an adapter file for it holds, where it takes such files.

    ``suffix`` is that of these files: those of ONNX Runtime, or safetensors. ``one_each`` says whether every adapter
    has a file of its own.
    """

    deploy: Callable[..., Deployment]
    adapter: Callable[..., dict[str, Array]] | None = None
    suffix: str = ""
    one_each: bool = True

    def files(self, layer: Layer) -> list[str | None]:
        """For each adapter file that there is of ``layer`` its adapter; None for the only one, or for all together."""
        if not self.suffix:
            return []
        names: list[str | None] = [*adapters(layer)]
        return names if self.one_each and len(names) > 1 else [None]


FORMS: dict[str, Form] = {
    "parallel": Form(parallel),
    "merged": Form(merged),
    "hot-swap": Form(hot_swap, swapped, ".onnx_adapter"),
    "web": Form(web, swapped, ".safetensors"),
    "dynamic-rank": Form(dynamic_rank),
    "multi-adapter": Form(multi_adapter, stacked, ".onnx_adapter", one_each=False),
    "weighted": Form(weighted),
}


def form_of(name: str) -> Form:
    """The form called ``name``; ValueError listing those there are."""
    return FORMS[checks.choice("form", name, list(FORMS))]


__all__ = ["FORMS", "Deployment", "Form", "form_of"]
