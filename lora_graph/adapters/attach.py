"""Attaching adapters to a whole model in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lora_graph import checks
from lora_graph.adapters.adapted import DEFAULT, AdaptedModel
from lora_graph.adapters.targets import ALL_LINEAR, Patterns
from lora_graph.layers.layer import Layer


def adapt(
    model: Layer,
    adapter: str = "lora",
    *,
    targets: Patterns = ALL_LINEAR,
    exclude: Patterns = (),
    rank: int = 8,
    alpha: float = -1,
    rank_pattern: Mapping[str, int] | None = None,
    alpha_pattern: Mapping[str, float] | None = None,
    unfreeze: str | Sequence[str] = (),
    rng: checks.Seed = None,
    **options: Any,
) -> AdaptedModel:
    """``model`` with an adapter at each of the weights that ``targets`` choose; everything else is frozen.

    ``targets`` and ``exclude`` are names, globs, compiled regular expressions, functions of a :class:`Target`, lists of
    these, or ``"all-linear"``: every product with a matrix. ``unfreeze`` names parameters of the model that train as
    well, as names or globs. ``adapter`` is a family; its own ``options`` follow. ValueError for a target or an
    ``unfreeze`` that matches nothing, and for a model that has adapters already.
    """
    if isinstance(model, AdaptedModel):
        raise ValueError("model has adapters already: model.add_adapter(name, ...) puts another one beside them")
    adapted = AdaptedModel(model, unfreeze=unfreeze, rng=rng)
    adapted.add_adapter(
        DEFAULT,
        adapter,
        targets=targets,
        exclude=exclude,
        rank=rank,
        alpha=alpha,
        rank_pattern=rank_pattern,
        alpha_pattern=alpha_pattern,
        rng=adapted.rng,
        **options,
    )
    return adapted
