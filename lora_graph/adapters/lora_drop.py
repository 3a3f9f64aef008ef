"""Dropout on the output of a LoRA branch (Srivastava et al., 2014, applied to Hu et al., 2021)."""

from __future__ import annotations

from typing import Any

import numpy as np

from lora_graph import checks
from lora_graph.adapters.adapter import Adapter, Place
from lora_graph.adapters.pairs import PairOptions
from lora_graph.adapters.site import Site
from lora_graph.ir.types import Array, TensorType
from lora_graph.ir.value import Value
from lora_graph.layers.layer import Layer
from lora_graph.layers.trace import Context


class LoRADropAdapter(Adapter):
    """y = base(x) + m ⊙ s · (x A) B, where in training each m is 0 with probability p, else 1 / (1 - p).

    One mask per output feature, shared by the batch, or one per element with ``mask="element"`` (site "output" only).
    In evaluation the delta is multiplied by 1 - p, as documented for this class. That compensates twice: the mask's
    1 / (1 - p) already keeps the expectation. ``inference_scaling="none"`` leaves the delta as it is, which preserves
    the expectation. Merging and export use the same factor as evaluation.

    This is dropout *on* LoRA, not the pruning method published under the name LoRA-drop (Zhou et al., 2024).
    Starts in training mode. ``seed`` draws the masks, and A when no ``rng`` is given. 0 ≤ ``dropout_rate`` < 1.
    """

    family = "lora_drop"
    has_pairs = True

    def __init__(
        self,
        base_layer: Layer,
        rank: int,
        dropout_rate: float,
        alpha: float = -1,
        freeze_base_layer: bool = True,
        seed: int | None = None,
        *,
        inference_scaling: str = "documented",
        mask: str = "feature",
        site: Place = "output",
        rng: checks.Seed = None,
    ):
        self.dropout_rate = checks.below_one("dropout_rate", dropout_rate)
        self.inference_scaling = checks.choice("inference_scaling", inference_scaling, ("documented", "none"))
        self.mask = checks.choice("mask", mask, ("feature", "element"))
        if mask == "element" and site != "output":
            raise ValueError("mask='element' needs site='output': a weight has no elements of the output")
        if seed is not None:
            checks.integer("seed", seed, 0)
        # two streams of one seed, so that the masks are the same whether or not A comes from elsewhere
        masks, weights = map(np.random.default_rng, np.random.SeedSequence(seed).spawn(2))
        drawn = weights if rng is None else rng
        super().__init__(base_layer, rank, alpha, freeze_base_layer, site=site, rng=drawn)
        if seed is not None or rng is None:
            self.rng = masks

    @property
    def options(self) -> dict[str, Any]:
        return {"dropout_rate": self.dropout_rate, "inference_scaling": self.inference_scaling, "mask": self.mask}

    def create_branch(self, name: str, site: Site) -> Layer:
        return PairOptions().pair(site, "rank", dtype=self.dtype, rng=self.rng)

    def delta(self, ctx: Context, name: str, branch: Layer, h: Value) -> Value:
        change = ctx.call(branch, h)
        if not ctx.training:
            return change if self.inference_scaling == "none" else change * (1 - self.dropout_rate)
        features, *axes = branch.output_shape
        shape = change.shape if self.mask == "element" else (features, *(1,) * len(axes))
        return change * ctx.draw(name.replace(self.branch, "mask", 1), TensorType(self.dtype, shape), self._draw_mask)

    def _draw_mask(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        return (rng.random(shape) >= self.dropout_rate) / (1 - self.dropout_rate)

    def get_diagnostics(self) -> dict[str, str]:
        return {
            **super().get_diagnostics(),
            "dropout_rate": f"{self.dropout_rate:g}",
            "mask": self.mask,
            "inference_scaling": self.inference_scaling,
        }
