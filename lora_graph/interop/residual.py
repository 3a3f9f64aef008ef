"""Initializations that take what the adapter starts with out of the base: PiSSA and OLoRA.

PEFT does so anew whenever it loads such an adapter, so the base that the adapter belongs to is not the one in the file.
"""

from __future__ import annotations

import numpy as np

from lora_graph.ir.types import Array


def residual(weight: Array, how: str, rank: int, scale: float) -> Array:
    """What is left of a weight ``[out, in]``.

    ``pissa``: W - U_r S_r V_rᵀ, without the ``rank`` largest singular values (Meng et al., 2024, arXiv:2404.02948).
    ``olora``: W - s Q_r R_r, with W = Q R (Büyükakyüz, 2024, arXiv:2406.01775).
    """
    exact = weight.astype(np.float64)
    if how == "pissa":
        u, s, v = np.linalg.svd(exact, full_matrices=False)
        taken = (u[:, :rank] * s[:rank]) @ v[:rank]
    else:
        q, r = np.linalg.qr(exact)
        taken = scale * (q[:, :rank] @ r[:rank])
    left: Array = (exact - taken).astype(weight.dtype)
    return left
