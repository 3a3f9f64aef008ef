"""Adapters on a whole model: named sets of them at chosen weights of one frozen base."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from lora_graph import checks
from lora_graph.adapters.adapter import FAMILIES, Adapter
from lora_graph.adapters.merging import merged_arrays, merged_layer, untie
from lora_graph.adapters.site import Change, Site, inject
from lora_graph.adapters.stored import DEFAULT, Stored
from lora_graph.adapters.targets import ALL_LINEAR, Patterns, Target, check_matched, choose, matches, targets
from lora_graph.ir.graph import Graph
from lora_graph.ir.types import Array, TensorType
from lora_graph.ir.value import Value
from lora_graph.layers.imported import ImportedLayer
from lora_graph.layers.layer import Layer
from lora_graph.layers.trace import Context

__all__ = ["DEFAULT", "AdaptedModel", "sharing_copy"]


class AdaptedModel(Stored, Layer):
    """y = base(x) with the weights that the active adapters stand at changed: h W + delta(h), or h (W + ΔW).

    Make one with :func:`lora_graph.adapt`. The base is a copy that shares the arrays of the original, which stays as
    it is. All of it is frozen but what ``unfreeze`` names, and it runs in evaluation mode. Its parameters are called
    ``base.fc1.weight`` and alike, those of an adapter after its own name, as in ``default.lora_fc1_weight.A``.
    """

    def __init__(self, base: Layer, *, unfreeze: str | Sequence[str] = (), rng: checks.Seed = None):
        if not isinstance(base, Layer):
            raise TypeError(f"model must be a Layer, got {base!r}")
        super().__init__(
            input_shape=base.input_shapes,
            output_shape=base.output_shapes,
            dtype=base.dtype,
            rng=rng,
            layer_name=f"Adapted{base.layer_name}",
        )
        self.supports_training = base.supports_training
        self.any_rank = base.any_rank
        self._base = self.add_child("base", sharing_copy(base))
        self._adapters: dict[str, Adapter] = {}
        self._options: dict[str, dict[str, Any]] = {}
        self._active: tuple[str, ...] = ()
        self._originals: dict[str, Array] | None = None
        self._tied: Graph | None = None
        self._replaced: set[str] = set()
        self.report: Any = None
        """How the modules of another library's file were found, where the adapters came from one."""
        self.module_names: dict[str, str] = {}
        """The module paths of weights, where a file told them."""
        _train_only(self._base, unfreeze)

    # -- the base and its adapters --------------------------------------------------------------------------------

    @property
    def base(self) -> Layer:
        """The model under the adapters."""
        return self._base

    @property
    def adapters(self) -> dict[str, Adapter]:
        """The adapters by name."""
        return dict(self._adapters)

    @property
    def active_adapters(self) -> tuple[str, ...]:
        """The names of the adapters that take part."""
        return self._active

    @property
    def branches(self) -> dict[str, Layer]:
        return dict(self._adapters)

    @property
    def input_dtype(self) -> Any:
        return self._base.input_dtype

    @property
    def inputs(self) -> dict[str, TensorType]:
        return self._base.inputs

    def targets(self) -> list[Target]:
        """Every weight of the base that can be adapted, with its shape."""
        return targets(self._base)

    def add_adapter(
        self,
        name: str = DEFAULT,
        adapter: str = "lora",
        *,
        targets: Patterns = ALL_LINEAR,
        exclude: Patterns = (),
        rank: int = 8,
        alpha: float = -1,
        rank_pattern: Mapping[str, int] | None = None,
        alpha_pattern: Mapping[str, float] | None = None,
        rng: checks.Seed = None,
        **options: Any,
    ) -> Adapter:
        """Put an adapter of the family ``adapter`` at the weights that ``targets`` choose, and make it active.

        ``rank_pattern`` and ``alpha_pattern`` map patterns to the rank and alpha of the weights they match, the first
        one that matches counting; one that matches none is an error. ``options`` are those of the family, such as
        ``active_ranks`` and ``dropout_rate``.
        """
        self._check_free(name)
        family = FAMILIES[checks.choice("adapter", adapter, list(FAMILIES))]
        checks.options(f"adapter={adapter!r}", family, options, ("alpha", "freeze_base_layer", "site", "rng"))
        available = _targets(self._base, family.has_pairs)
        checks.integer("rank", rank, 1)
        chosen = choose(available, targets, exclude)
        for argument, patterns in (("rank_pattern", rank_pattern), ("alpha_pattern", alpha_pattern)):
            if not isinstance(patterns, Mapping | None):
                raise TypeError(f"{argument} must be a dict from patterns to numbers, got {patterns!r}")
            check_matched(argument, patterns or {}, chosen)
        sites = [_fitted(target, rank, alpha, rank_pattern or {}, alpha_pattern or {}) for target in chosen]
        made = family(self._base, rank, alpha=alpha, site=sites, rng=rng, **options)
        self._register(name, made, options)
        return made

    def attach(self, adapter: Adapter, name: str = DEFAULT) -> Adapter:
        """Take in an adapter that was built at places of this model's ``base``, and make it active."""
        self._check_free(name)
        if not isinstance(adapter, Adapter):
            raise TypeError(f"adapter must be an Adapter, got {adapter!r}")
        if adapter.base_layer is not self._base or adapter.site != "weight":
            raise ValueError(f"adapter must stand at weights of this model's base, got one at {adapter.base_layer!r}")
        self._register(name, adapter, adapter.options)
        return adapter

    def replace_base(self, arrays: Mapping[str, Array], *, trainable: bool) -> None:
        """Give parameters of the base other values, which :meth:`save_adapter` keeps; the caller's model has its own.

        ``trainable`` lets them train from now on. ValueError for a name or a shape that the base does not have.
        """
        if self._originals is not None:
            raise RuntimeError("the adapters are merged: call unmerge() first")
        slots = self._base.slots()
        for label, array in arrays.items():
            if label not in slots:
                raise ValueError(f"the base has no parameter {label!r}; it has {', '.join(slots)}")
            wanted = slots[label][0].array
            if array.shape != wanted.shape or array.dtype != wanted.dtype:
                raise ValueError(f"{label} must be {wanted.dtype} {wanted.shape}, got {array.dtype} {array.shape}")
        self._base.assign(arrays)
        self._replaced.update(arrays)
        for label in arrays:
            slots[label][0].trainable = slots[label][0].trainable or trainable

    def _register(self, name: str, adapter: Adapter, options: Mapping[str, Any]) -> None:
        self._adapters[name] = self.add_child(name, adapter)
        self._options[name] = dict(options)
        self._active = (*self._active, name)

    def _check_free(self, name: str) -> None:
        if self._originals is not None:
            raise RuntimeError("the adapters are merged: call unmerge() before adding another")
        if name in self._children:
            raise ValueError(f"there is an adapter or child called {name!r} already")

    def set_active(self, *names: str) -> None:
        """Let exactly these adapters take part; ValueError for one that there is not."""
        if self._originals is not None:
            raise RuntimeError("the adapters are merged: call unmerge() first")
        for name in names:
            checks.choice("name", name, list(self._adapters))
        self._active = tuple(dict.fromkeys(names))

    @contextmanager
    def disable_adapters(self) -> Iterator[None]:
        """Within the block the model is its base."""
        before = self._active
        self.set_active()
        try:
            yield
        finally:
            self._active = before

    def sharing(self, adapters: Mapping[str, Adapter]) -> AdaptedModel:
        """A model of the same base, which it shares, with ``adapters`` of it, all of them active."""
        twin = copy.copy(self)
        twin._children = {"base": self._base, **adapters}
        twin._adapters, twin._active = dict(adapters), tuple(adapters)
        return twin

    # -- what it computes -----------------------------------------------------------------------------------------

    def _mode_of(self, child: str, training: bool | None) -> bool | None:
        return False if child == "base" else training

    def build(self, ctx: Context, x: Any) -> Any:
        y = ctx.call(self._base, x)
        if self._originals is not None or not self._active:
            return y
        changes: dict[Value, list[Change]] = {}
        for name in self._active:
            adapter = self._adapters[name]
            for weight, added in adapter.changes(ctx.of(adapter)).items():
                changes.setdefault(weight, []).extend(added)
        return inject(ctx, x, y, changes)

    def merge(self) -> None:
        """Fold the active adapters into the base, until :meth:`unmerge`; after a MergeError all is as it was."""
        if self._originals is not None:
            raise RuntimeError("the adapters are merged already")
        merged = merged_arrays(self, self._base)
        originals, tied = self._base.state, untie(self._base, merged)
        self._base.assign(merged)
        self._originals, self._tied = originals, tied

    def unmerge(self) -> None:
        """Take the adapters out again: the weights of the base are the very arrays from before :meth:`merge`."""
        if self._originals is None:
            raise RuntimeError("the adapters are not merged")
        if self._tied is not None:
            assert isinstance(self._base, ImportedLayer)
            self._base.exchange(self._tied, {})
        self._base.assign(self._originals)
        self._originals = self._tied = None

    @property
    def is_merged(self) -> bool:
        """Whether the active adapters are in the weights."""
        return self._originals is not None

    def merge_to_base(self) -> Layer:
        """A layer of the base's class, with arrays of its own, that computes what this model does in evaluation."""
        return copy.deepcopy(self._base) if self._originals is not None else merged_layer(self, self._base)

    def print_trainable_parameters(self) -> None:
        """Print how many parameters train, of how many."""
        total = sum(array.size for array in self.state.values())
        trained = self.parameter_count
        print(f"{trained:,} of {total:,} parameters train ({trained / total:.4%})")


def sharing_copy(layer: Layer) -> Layer:
    """A copy of ``layer`` whose parameters hold the same arrays; setting one of either leaves the other as it is."""
    memo = {id(slot.array): slot.array for slot, _ in layer.slots().values()}
    return copy.deepcopy(layer, memo)


def _train_only(base: Layer, names: str | Sequence[str]) -> None:
    """Let only the parameters train that ``names`` match."""
    wanted = [names] if isinstance(names, str) else names
    if not isinstance(wanted, Collection) or not all(isinstance(name, str) for name in wanted):
        raise TypeError(f"unfreeze must be names or globs, got {names!r}")
    slots = base.slots()
    for pattern in wanted:
        if not any(fnmatchcase(label, pattern) for label in slots):
            raise ValueError(f"unfreeze: no parameter matches {pattern!r}; there are {', '.join(slots)}")
    base.unfreeze()
    for label, (slot, _) in slots.items():
        slot.trainable = slot.array.dtype.kind == "f" and any(fnmatchcase(label, pattern) for pattern in wanted)


def _fitted(target: Target, rank: int, alpha: float, ranks: Mapping[str, int], alphas: Mapping[str, float]) -> Site:
    """The place with its own rank and alpha; a negative alpha means the rank there."""
    own = checks.integer("rank_pattern", _first(ranks, target, rank), 1)
    return replace(target.site, rank=own, alpha=checks.scale("alpha", _first(alphas, target, alpha), own))


def _first(patterns: Mapping[str, Any], target: Target, default: Any) -> Any:
    return next((value for pattern, value in patterns.items() if matches(pattern, target)), default)


_targets = targets
