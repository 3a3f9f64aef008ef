"""The scale of an adapter: what its product is multiplied by."""

from __future__ import annotations

import math

from lora_graph import checks

RANK_SCALINGS = ("rank", "sqrt_rank")


class Scaled:
    """Something scaled by s = alpha / rank, or by s = alpha / √rank where ``rank_scaling`` is ``"sqrt_rank"``.

    The latter is rsLoRA (Kalajdzievski, 2023, arXiv:2312.03732). A negative alpha means the rank.
    """

    rank_scaling: str = "rank"

    def set_scale(self, rank: int, alpha: float) -> None:
        """ValueError for an alpha that is 0 or not finite."""
        self._rank = rank
        self._alpha = checks.scale("alpha", alpha, rank)

    @property
    def rank(self) -> int:
        """The number of components of each low-rank pair."""
        return self._rank

    @property
    def alpha(self) -> float:
        """The numerator of the scale."""
        return self._alpha

    @property
    def scaling(self) -> float:
        """s."""
        return self._alpha / (math.sqrt(self._rank) if self.rank_scaling == "sqrt_rank" else self._rank)

    def described_scale(self) -> dict[str, str]:
        """Rank, alpha and s for a report."""
        return {"rank": str(self.rank), "alpha": f"{self.alpha:g}", "scaling": f"{self.scaling:g}"}
