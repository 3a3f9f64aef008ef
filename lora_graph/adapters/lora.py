"""LoRA: a low-rank pair beside a weight (Hu et al., 2021, arXiv:2106.09685)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lora_graph import checks
from lora_graph.adapters.adapter import Adapter, Place
from lora_graph.adapters.pairs import Chosen, PairOptions, options_for, options_of
from lora_graph.adapters.site import Site
from lora_graph.ir.types import Array
from lora_graph.ir.value import Value
from lora_graph.layers.layer import Layer
from lora_graph.layers.trace import Context


class StandardLoRAAdapter(Adapter):
    """y = base(x) + s · (x A) B, or with ``site="weight"`` the same inside the layer: act(x (W + s A B) + b).

    Beside a convolution, products are convolutions (see :class:`LoRAConvolution`). s = alpha / rank, or alpha / √rank
    with ``rank_scaling="sqrt_rank"`` (rsLoRA).

    The other options are for what other libraries' files hold. ``wide`` allows ranks beyond the widths of a weight.
    ``bias`` gives B a bias, which adds s · bias; a lookup or a recurrent weight has none. ``tucker`` puts a kernel
    between pointwise A and B where the kernel of a convolution is not 1 (:class:`TuckerConvolution`). ``dense`` lets A
    see all channels of a convolution in groups. The last three hold at every weight that can have them if True, or at
    those whose names are given.
    """

    family = "lora"
    has_pairs = True

    def __init__(
        self,
        base_layer: Layer,
        rank: int,
        alpha: float = -1,
        freeze_base_layer: bool = True,
        *,
        rank_scaling: str = "rank",
        wide: bool = False,
        bias: Chosen = False,
        tucker: Chosen = False,
        dense: Chosen = False,
        site: Place = "output",
        rng: checks.Seed = None,
    ):
        self._options = PairOptions(rank_scaling, wide, bias, tucker, dense)
        self.rank_scaling = rank_scaling
        super().__init__(base_layer, rank, alpha, freeze_base_layer, site=site, rng=rng)

    @classmethod
    def options_for(cls, sites: Sequence[Site], matrices: Sequence[Mapping[str, Array]]) -> dict[str, Any]:
        return options_for(sites, matrices)

    @property
    def options(self) -> dict[str, Any]:
        return options_of(self._sites, self.branches, self.rank_scaling)

    def create_branch(self, name: str, site: Site) -> Layer:
        return self._options.pair(site, "rank", dtype=self.dtype, rng=self.rng)

    def delta(self, ctx: Context, name: str, branch: Layer, h: Value) -> Value:
        return ctx.call(branch, h)
