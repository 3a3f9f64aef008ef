"""Which low-rank pair stands at a site, and in which of its forms."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lora_graph import checks
from lora_graph.adapters.convolution import LoRAConvolution
from lora_graph.adapters.lora_layer import LoRALayer, rank_limit
from lora_graph.adapters.pair import LowRankPair, check_width
from lora_graph.adapters.scale import RANK_SCALINGS
from lora_graph.adapters.site import Site
from lora_graph.adapters.tucker import TuckerConvolution
from lora_graph.ir.types import Array
from lora_graph.layers.layer import Layer

Chosen = bool | Collection[str]
"""At which weights an option holds: at all or none, or at those of these names."""


@dataclass(frozen=True)
class PairOptions:
    """What a family of low-rank pairs may be told about them; see :class:`StandardLoRAAdapter`."""

    rank_scaling: str = "rank"
    wide: bool = False
    bias: Chosen = False
    tucker: Chosen = False
    dense: Chosen = False

    def __post_init__(self) -> None:
        checks.choice("rank_scaling", self.rank_scaling, RANK_SCALINGS)
        checks.flag("wide", self.wide)
        for name in ("bias", "tucker", "dense"):
            _check_chosen(name, getattr(self, name))

    def pair(self, site: Site, name: str, *, dtype: npt.DTypeLike, rng: checks.Seed) -> LowRankPair:
        """The pair that fits at ``site``; ValueError naming the argument ``name`` where its rank is too wide."""
        rank, alpha, geometry = site.rank, site.alpha, site.geometry
        shared: dict[str, Any] = {
            "rank_scaling": self.rank_scaling,
            "wide": self.wide,
            "bias": self._holds("bias", site, not (site.changes_weight or site.is_lookup)),
            "dtype": dtype,
            "rng": rng,
        }
        has_window = geometry is not None and max(geometry.kernel) > 1
        tucker, dense = self._holds("tucker", site, has_window), self._holds("dense", site, geometry is not None)
        if geometry is None:
            check_width(name, rank, rank_limit(site.in_features, site.out_features, site.label), self.wide)
            layer = LoRALayer(site.in_features, site.out_features, rank, alpha, **shared)
            layer.any_rank = not site.is_lookup  # numbers of rows have no axis of features
            return layer
        widest, what = geometry.limit
        check_width(name, rank, (widest, f"{site.label}, {what}" if site.label else what), self.wide)
        if not tucker:
            return LoRAConvolution(geometry, rank, alpha, dense=dense, **shared)
        if dense and geometry.op.group > 1:
            raise ValueError(f"{site.label or 'the convolution'} cannot be both tucker and dense")
        return TuckerConvolution(geometry, rank, alpha, **shared)

    def _holds(self, name: str, site: Site, is_possible: bool) -> bool:
        """Whether the option ``name`` holds at ``site``; ValueError where it is asked for by name and cannot."""
        option = getattr(self, name)
        if isinstance(option, bool | np.bool_):
            return bool(option) and is_possible
        if site.label in option and not is_possible:
            raise ValueError(f"{name}: {site.label} cannot have it")
        return site.label in option


def options_for(sites: Sequence[Site], matrices: Sequence[Mapping[str, Array]]) -> dict[str, Any]:
    """The arguments that lead to pairs of the shapes of ``matrices`` at ``sites``."""
    forms: dict[str, Any] = {"wide": True}
    for site, arrays in zip(sites, matrices, strict=True):
        geometry = site.geometry
        is_dense = geometry is not None and geometry.op.group > 1 and arrays["A"].shape[1] == geometry.in_channels
        for name, holds in (("bias", "bias" in arrays), ("tucker", "mid" in arrays), ("dense", is_dense)):
            if holds:
                forms.setdefault(name, []).append(site.label)
    return forms


def options_of(sites: Mapping[str, Site], branches: Mapping[str, Layer], rank_scaling: str) -> dict[str, Any]:
    """The arguments that lead to pairs like ``branches`` at ``sites``, which have the same names."""
    pairs = {sites[name].label: branch for name, branch in branches.items()}
    forms = {
        "bias": [label for label, pair in pairs.items() if "bias" in pair.own],
        "tucker": [label for label, pair in pairs.items() if isinstance(pair, TuckerConvolution)],
        "dense": [label for label, pair in pairs.items() if isinstance(pair, LoRAConvolution) and pair.is_dense],
    }
    return {"rank_scaling": rank_scaling, "wide": True, **{name: found for name, found in forms.items() if found}}


def _check_chosen(name: str, value: Any) -> None:
    if isinstance(value, bool | np.bool_):
        return
    if isinstance(value, str) or not isinstance(value, Collection) or not all(isinstance(v, str) for v in value):
        raise TypeError(f"{name} must be a bool or names of weights, got {value!r}")
