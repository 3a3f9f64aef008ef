"""DyLoRA: one adapter that works at several ranks (Valipour et al., 2022, arXiv:2210.07558)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from lora_graph import checks
from lora_graph.adapters.adapter import Adapter, Place
from lora_graph.adapters.pair import LowRankPair
from lora_graph.adapters.pairs import PairOptions
from lora_graph.adapters.site import Site
from lora_graph.ir.types import Array, tensor
from lora_graph.ir.value import Value
from lora_graph.layers.layer import Layer
from lora_graph.layers.trace import Context

if TYPE_CHECKING:
    from lora_graph.train.loss import Loss


class DyLoRAAdapter(Adapter):
    """y = base(x) + s · (x A[:, :b]) B[:b], with b drawn from ``active_ranks`` in training and chosen in evaluation.

    In training each forward draws one b uniformly; components beyond it get no gradient, and no optimizer moves them.
    In evaluation ``current_deployment_rank`` is b, and merging and export use exactly that slice. s is alpha / max_rank
    at every rank, or alpha / b with ``rank_scaling="per_rank"``, as the paper's authors have it. A negative ``alpha``
    means ``max_rank``. Starts in training mode; ``last_sampled_rank`` is the b of the last forward there.

    ``active_ranks`` must be non-empty, strictly ascending ints in 1..max_rank.
    """

    family = "dylora"
    has_pairs = True

    def __init__(
        self,
        base_layer: Layer,
        max_rank: int,
        active_ranks: Sequence[int],
        alpha: float = -1,
        freeze_base_layer: bool = True,
        *,
        rank_scaling: str = "max_rank",
        site: Place = "output",
        rng: checks.Seed = None,
    ):
        if not isinstance(active_ranks, Sequence | np.ndarray) or isinstance(active_ranks, str):
            raise TypeError(f"active_ranks must be a sequence of ints, got {active_ranks!r}")
        highest = checks.integer("max_rank", max_rank, 1)
        ranks = tuple(checks.integer("each of active_ranks", rank, 1, highest) for rank in active_ranks)
        if not ranks or any(b <= a for a, b in pairwise(ranks)):
            raise ValueError(f"active_ranks must be non-empty and strictly ascending in 1..{highest}, got {ranks}")
        self.rank_scaling = checks.choice("rank_scaling", rank_scaling, ("max_rank", "per_rank"))
        self.active_ranks = ranks
        self.last_sampled_rank: int | None = None
        self._deployment_rank = ranks[-1]
        super().__init__(base_layer, highest, alpha, freeze_base_layer, site=site, rng=rng)

    @property
    def scaling(self) -> float:
        """The factor in evaluation."""
        return self.alpha / (self._deployment_rank if self._per_rank else self.rank)

    @property
    def max_rank(self) -> int:
        """The rank of A and B as a whole."""
        return self.rank

    @property
    def exported_rank(self) -> int:
        return self._deployment_rank

    @property
    def current_deployment_rank(self) -> int:
        """The rank that evaluation, merging and export use; settable to one of ``active_ranks``."""
        return self._deployment_rank

    @current_deployment_rank.setter
    def current_deployment_rank(self, rank: int) -> None:
        chosen = checks.integer("rank", rank)
        if chosen not in self.active_ranks:
            raise ValueError(f"rank must be one of the active ranks {list(self.active_ranks)}, got {rank}")
        self._deployment_rank = chosen

    @property
    def options(self) -> dict[str, Any]:
        return {"active_ranks": list(self.active_ranks), "rank_scaling": self.rank_scaling}

    @property
    def settings(self) -> dict[str, Any]:
        return {"current_deployment_rank": self._deployment_rank}

    def set_deployment_rank(self, rank: int) -> None:
        """The same as setting ``current_deployment_rank``."""
        self.current_deployment_rank = rank

    def create_branch(self, name: str, site: Site) -> Layer:
        if site.rank != self.rank:
            raise ValueError(
                f"a DyLoRA adapter has one max_rank, {self.rank}, for all weights; {site.label} got {site.rank}"
            )
        return PairOptions().pair(site, "max_rank", dtype=self.dtype, rng=self.rng)

    def delta(self, ctx: Context, name: str, branch: Layer, h: Value) -> Value:
        assert isinstance(branch, LowRankPair)
        pair = ctx.of(branch)
        a, b = pair.param("A"), pair.param("B")
        if not ctx.training:
            rank = self._deployment_rank
            return branch.product(h, *branch.cut(a, b, rank)) * (branch.alpha / (rank if self._per_rank else self.rank))
        # whether each component is within the drawn rank: masking B by it cuts what flows on and both gradients
        within = ctx.draw("rank", tensor(np.bool_, (self.rank,)), self._draw_rank, shared="rank")
        in_a, in_b = branch.masks(within)
        pair.active("A", in_a)
        pair.active("B", in_b)
        scale = branch.alpha / (within.astype(self.dtype).sum() if self._per_rank else float(self.rank))
        return branch.product(h, a, b * in_b.astype(self.dtype)) * scale

    @property
    def _per_rank(self) -> bool:
        return self.rank_scaling == "per_rank"

    def _draw_rank(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        self.last_sampled_rank = int(rng.choice(self.active_ranks))
        return np.arange(self.rank) < self.last_sampled_rank

    def reset_state(self) -> None:
        super().reset_state()
        self.last_sampled_rank = None

    def train_with_nested_dropout(
        self,
        inputs: Sequence[Any],
        targets: Sequence[Any],
        epochs: int,
        learning_rate: float,
        loss_function: Loss,
    ) -> list[float]:
        """Gradient descent over batches, one rank drawn and one step taken per batch; the mean loss of each epoch.

        ``inputs`` and ``targets`` are lists of batches, ``loss_function`` a name or a function of two Values.
        The mode is restored at the end, also after an error.
        """
        from lora_graph.train.nested import train_with_nested_dropout

        return train_with_nested_dropout(self, inputs, targets, epochs, learning_rate, loss_function)

    def get_diagnostics(self) -> dict[str, str]:
        return {
            **super().get_diagnostics(),
            "active_ranks": ", ".join(map(str, self.active_ranks)),
            "deployment_rank": str(self._deployment_rank),
            "rank_scaling": self.rank_scaling,
        }
