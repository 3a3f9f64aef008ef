"""DoRA: a weight as directions and magnitudes, of which LoRA changes the directions (Liu et al., 2024,
arXiv:2402.09353)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lora_graph import checks
from lora_graph.adapters.adapter import Adapter, Place
from lora_graph.adapters.pair import LowRankPair
from lora_graph.adapters.pairs import Chosen, PairOptions, options_for, options_of
from lora_graph.adapters.site import Site
from lora_graph.interpret import evaluate
from lora_graph.ir.graph import Graph
from lora_graph.ir.leaves import Parameter
from lora_graph.ir.types import Array, type_of
from lora_graph.ir.value import Value, apply
from lora_graph.layers.layer import Layer
from lora_graph.layers.trace import Context
from lora_graph.ops.arithmetic import maximum
from lora_graph.ops.functions import reduce_l2
from lora_graph.ops.shape import expand, unsqueeze
from lora_graph.ops.stop_gradient import stop_gradient


class DoRAAdapter(Adapter):
    """W becomes W' = (W + s A B) ⊙ m / ‖W + s A B‖: for each output a norm, and a magnitude m ``[out]`` that trains.

    The norm counts as a constant of differentiation (section 4.3 of the paper, as PEFT does it). Beside a product it is
    h W' = g ⊙ (h W) + g ⊙ s (h A) B with g = m / ‖W + s A B‖: beyond LoRA only the norm of a weight is computed. m
    starts as ‖W‖, so that the adapter starts as its base up to the rounding of h W · g with g = 1.

    A kernel has one norm for each output channel, an embedding one for each column. With ``norm="input"`` there is one
    for each input feature instead (channel of a group, of a convolution), as older LyCORIS files have it; W' is then
    computed as a whole. The place is always inside: ``site`` is ``"weight"``. Other options are those of
    :class:`StandardLoRAAdapter`.
    """

    family = "dora"
    has_pairs = True

    def __init__(
        self,
        base_layer: Layer,
        rank: int,
        alpha: float = -1,
        freeze_base_layer: bool = True,
        *,
        norm: str = "output",
        rank_scaling: str = "rank",
        wide: bool = False,
        tucker: Chosen = False,
        site: Place = "weight",
        rng: checks.Seed = None,
    ):
        if site == "output":
            raise ValueError("site must be 'weight' for DoRA, which scales what the weight gives; got 'output'")
        self.norm = checks.choice("norm", norm, ("output", "input"))
        self._options = PairOptions(rank_scaling, wide, tucker=tucker)
        self.rank_scaling = rank_scaling
        super().__init__(base_layer, rank, alpha, freeze_base_layer, site=site, rng=rng)

    def fitted(self, site: Site) -> Site:
        return site if self.norm == "output" else replace(site, changes_weight=True)

    @classmethod
    def options_for(cls, sites: Sequence[Site], matrices: Sequence[Mapping[str, Array]]) -> dict[str, Any]:
        return options_for(sites, matrices)

    @property
    def options(self) -> dict[str, Any]:
        return {"norm": self.norm, **options_of(self._sites, self.branches, self.rank_scaling)}

    def create_branch(self, name: str, site: Site) -> Layer:
        assert site.owner is not None
        pair = self._options.pair(site, "rank", dtype=self.dtype, rng=self.rng)
        weight = site.owner.slot(site.weight).array
        leaf: Value = apply(Parameter("weight", type_of(weight), False))
        norms = evaluate(Graph((), {"norm": self._norm(site, leaf)}), {}, {"weight": weight})
        pair.add_parameter("magnitude", norms["norm"])
        return pair

    def delta(self, ctx: Context, name: str, branch: Layer, h: Value) -> Value:
        factor = self.scale(ctx, name, branch, self.weight_at(ctx, name))
        return ctx.call(branch, h) * self._sites[name].by_feature(factor)

    def scale(self, ctx: Context, name: str, branch: Layer, weight: Value) -> Value:
        site = self._sites[name]
        assert isinstance(branch, LowRankPair)
        pair = ctx.of(branch)
        total = weight + site.laid_out(branch.change(pair), weight.shape)
        # a column of zeros, which has no direction, stays one
        norm = maximum(self._norm(site, total), float(np.finfo(self.dtype).tiny))
        return pair.param("magnitude") / stop_gradient(norm)

    def change(self, ctx: Context, name: str, branch: Layer, weight: Value) -> Value:
        site = self._sites[name]
        assert isinstance(branch, LowRankPair)
        old, factor = site.matrix(weight), self.scale(ctx, name, branch, weight)
        if self.norm == "input":
            factor = unsqueeze(expand(unsqueeze(factor, 1), (*factor.shape, site.window)).reshape((-1,)), 1)
        return (old + branch.change(ctx.of(branch))) * factor - old

    def _norm(self, site: Site, weight: Value) -> Value:
        """‖W‖ for each output, or for each input, of a weight at ``site``."""
        inputs = site.in_features // site.window
        if site.is_transposed:
            cube, over_inputs, outputs = weight.reshape((site.out_features, inputs, site.window)), (1, 2), 0
        else:
            cube, over_inputs, outputs = weight.reshape((inputs, site.window, site.out_features)), (0, 1), 2
        over_outputs = (outputs, 2 if site.is_transposed else 1)
        norm: Value = reduce_l2(cube, axis=over_inputs if self.norm == "output" else over_outputs)
        return norm

    def get_diagnostics(self) -> dict[str, str]:
        return {**super().get_diagnostics(), "norm": self.norm}
