"""The base class of adapters: a frozen layer, and branches that change what it computes."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from lora_graph import checks
from lora_graph.adapters.merging import merged_layer
from lora_graph.adapters.scale import Scaled
from lora_graph.adapters.site import Change, Site, inject, is_affine, output_site, weight_sites, weight_uses
from lora_graph.errors import MergeError
from lora_graph.ir.types import Array, TensorType
from lora_graph.ir.value import Value
from lora_graph.layers.layer import Layer
from lora_graph.layers.trace import Context
from lora_graph.ops.linalg import eye

Place = str | Sequence[Site]
"""Where an adapter goes: ``"output"``, ``"weight"``, or some of the places that :func:`weight_sites` finds."""

FAMILIES: dict[str, type[Adapter]] = {}
"""Every adapter class by the name of its family."""


class Adapter(Scaled, Layer):
    """y = base(x) + delta(x), or with ``site="weight"`` the delta inside the layer, beside each linear weight.

    A family is a subclass with two methods: ``create_branch`` makes the layer that holds the parameters beside one
    weight, ``delta`` says what it adds. ``change`` may spell ΔW in a shorter way, ``scale`` may multiply what the base
    gives; ``options`` and ``options_for`` tell files in which of its forms a family is. Everything else (training,
    merging, export) follows from the graph.

    ``alpha`` negative means the rank. ``freeze_base_layer`` holds the base fixed; the base itself, its mode and its
    freezing, is never touched, so two adapters can share it. A frozen base runs in evaluation mode.
    """

    family: ClassVar[str] = ""
    branch: ClassVar[str] = "lora"
    has_pairs: ClassVar[bool] = False
    """Whether ``create_branch`` makes the low-rank pair that fits a site: a convolution beside a convolution, a lookup
    beside a lookup. Otherwise such a weight is changed as a whole, by :meth:`change`."""

    def __init_subclass__(cls) -> None:
        if "family" in cls.__dict__:
            FAMILIES[cls.family] = cls

    def __init__(
        self,
        base_layer: Layer,
        rank: int,
        alpha: float = -1,
        freeze_base_layer: bool = True,
        *,
        site: Place = "output",
        rng: checks.Seed = None,
    ):
        if not isinstance(base_layer, Layer):
            raise TypeError(f"base_layer must be a Layer, got {base_layer!r}")
        self._freeze_base = checks.flag("freeze_base_layer", freeze_base_layer)
        self.set_scale(checks.integer("rank", rank, 1), alpha)
        given = list(site) if isinstance(site, list | tuple) else None
        self.site = checks.choice("site", site, ("output", "weight")) if given is None else "weight"
        sites = self._find_sites(base_layer) if given is None else given
        if not sites:
            raise ValueError(f"site='weight': {base_layer.layer_name} multiplies by no weight")
        sites = [self.fitted(s if s.rank else replace(s, rank=self._rank, alpha=self._alpha)) for s in sites]
        super().__init__(
            input_shape=base_layer.input_shapes, output_shape=base_layer.output_shapes, dtype=base_layer.dtype, rng=rng
        )
        self.supports_training = base_layer.supports_training
        self.any_rank = base_layer.any_rank
        self.add_child("base", base_layer)
        self._sites: dict[str, Site] = dict(zip(_names(self.branch, sites), sites, strict=True))
        for name, place in self._sites.items():
            self.add_child(name, self.create_branch(name, place))
        if site == "output" and not is_affine(base_layer.to_graph()) and weight_uses(base_layer, self.has_pairs):
            warnings.warn(
                f"{_described(base_layer)} is not x W + b, so an adapter beside it cannot be merged into it exactly; "
                "with site='weight' it can",
                stacklevel=2 if type(self).__init__ is Adapter.__init__ else 3,
            )

    @classmethod
    def from_matrices(
        cls,
        base_layer: Layer,
        matrices: Mapping[str, Mapping[str, npt.ArrayLike]],
        rank: int | Mapping[str, int],
        alpha: float | Mapping[str, float] = -1,
        freeze_base_layer: bool = True,
        **options: Any,
    ) -> Self:
        """An adapter with ready parameters, in whichever form of the family their shapes are.

        ``matrices`` are the parameters by name, for each weight of the base by its name; ``rank`` and ``alpha`` may be
        given for each. ValueError for a weight that the base does not have, or parameters that fit no form there.
        """
        if not matrices:
            raise ValueError("matrices must be those of at least one weight, got none")
        sites = []
        for site in weight_sites(base_layer, cls.has_pairs, matrices):
            own = checks.integer("rank", rank[site.label] if isinstance(rank, Mapping) else rank, 1)
            given = alpha[site.label] if isinstance(alpha, Mapping) else alpha
            sites.append(replace(site, rank=own, alpha=checks.scale("alpha", given, own)))
        arrays = [{name: np.asarray(array) for name, array in matrices[site.label].items()} for site in sites]
        form = cls.options_for(sites, arrays)
        made = cls(base_layer, sites[0].rank, sites[0].alpha, freeze_base_layer, site=sites, **form, **options)
        for branch, own_arrays in zip(made.branches.values(), arrays, strict=True):
            branch.load_weights(own_arrays)
        return made

    # -- what a family defines ------------------------------------------------------------------------------------

    def create_branch(self, name: str, site: Site) -> Layer:
        """The layer that holds the adapter's parameters at one place, from ``site.in_features`` to ``out_features``."""
        raise NotImplementedError(f"{type(self).__name__} must implement create_branch")

    @classmethod
    def options_for(cls, sites: Sequence[Site], matrices: Sequence[Mapping[str, Array]]) -> dict[str, Any]:
        """The options with which the branch at each site gets parameters of the shapes of its ``matrices``, by name."""
        return {}

    @property
    def options(self) -> dict[str, Any]:
        """The arguments besides rank, alpha and place that make an adapter of this form; files keep them."""
        return {}

    def delta(self, ctx: Context, name: str, branch: Layer, h: Value) -> Value:
        """What the branch ``name`` adds for the input ``h`` of its weight."""
        raise NotImplementedError(f"{type(self).__name__} must implement delta")

    def change(self, ctx: Context, name: str, branch: Layer, weight: Value) -> Value:
        """ΔW ``[in_features, out_features]`` where ``weight`` is changed as a whole: ``delta`` at the identity."""
        (size,) = branch.input_shape
        return self.delta(ctx, name, branch, eye(size, weight.dtype))

    def scale(self, ctx: Context, name: str, branch: Layer, weight: Value) -> Value | None:
        """Factors ``[out_features]`` of what the base gives beside the branch: h W becomes (h W) ⊙ g + delta(h)."""
        return None

    def fitted(self, site: Site) -> Site:
        """How this family stands at ``site``, for instance changing its weight as a whole."""
        return site

    # -- properties -----------------------------------------------------------------------------------------------

    @property
    def base_layer(self) -> Layer:
        """The layer that is adapted: the very object that was given."""
        return self._children["base"]

    @property
    def input_dtype(self) -> np.dtype[Any]:
        return self.base_layer.input_dtype

    @property
    def inputs(self) -> dict[str, TensorType]:
        return self.base_layer.inputs

    @property
    def branches(self) -> dict[str, Layer]:
        return {name: self._children[name] for name in self._sites}

    @property
    def sites(self) -> tuple[Site, ...]:
        """Where the branches stand."""
        return tuple(self._sites.values())

    @property
    def settings(self) -> dict[str, Any]:
        """What of an adapter can be set once it is made, by the name of the property; files keep it."""
        return {}

    @property
    def lora_layer(self) -> Layer | tuple[Layer, ...] | None:
        """The low-rank layer; a tuple of them where the base has several weights."""
        found = tuple(self.branches.values())
        return found[0] if len(found) == 1 else found

    @property
    def is_base_layer_frozen(self) -> bool:
        """Whether the adapter holds the base fixed."""
        return self._freeze_base

    @property
    def exported_rank(self) -> int:
        """How many of the components evaluation, merging and export use."""
        return self._rank

    # -- how it stands to its base --------------------------------------------------------------------------------

    def _freezes(self, child: str) -> bool:
        return self._frozen or (child == "base" and self._freeze_base)

    def _mode_of(self, child: str, training: bool | None) -> bool | None:
        if child != "base":
            return training
        mode = self._training if training is None else training
        return mode and not self._freezes("base")

    def _is_guest(self, child: str) -> bool:
        return child == "base"

    def _find_sites(self, base: Layer) -> list[Site]:
        if self.site == "output":
            return [output_site(base, self.has_pairs)]
        return weight_sites(base, self.has_pairs)

    def build(self, ctx: Context, x: Any) -> Any:
        y = ctx.call(self.base_layer, x)
        if self.site == "weight":
            return inject(ctx, x, y, self.changes(ctx))
        for name, branch in self.branches.items():
            y = y + self.delta(ctx, name, branch, self.base_layer.bypass_input(x))
        return y

    def clear(self) -> None:
        """Take all branches out: what is left computes what the base does."""
        self._sites, self._children = {}, {"base": self.base_layer}

    def at(self, names: Collection[str]) -> Self:
        """This adapter with some of its branches only, which it shares."""
        part = copy.copy(self)
        part._sites = {name: site for name, site in self._sites.items() if name in names}
        part._children = {n: child for n, child in self._children.items() if n in names or n not in self._sites}
        return part

    def changes(self, ctx: Context) -> dict[Value, list[Change]]:
        """For each weight of the base that is adapted what the branches there do to it."""
        found: dict[Value, list[Change]] = {}
        for name, place in self._sites.items():
            branch, weight = self._children[name], self.weight_at(ctx, name)
            if place.changes_weight:
                change = Change(place, partial(self.change, ctx, name, branch))
            else:
                scale = self.scale(ctx, name, branch, weight)
                change = Change(place, partial(self.delta, ctx, name, branch), scale)
            found.setdefault(weight, []).append(change)
        return found

    def weight_at(self, ctx: Context, name: str) -> Value:
        """The parameter of the base that the branch ``name`` stands at."""
        place = self._sites[name]
        assert place.owner is not None
        return ctx.of(place.owner).param(place.weight)

    def merge_to_original_layer(self, *, allow_inexact: bool = False) -> Layer:
        """A new layer of the base's class that computes what this adapter computes in evaluation.

        MergeError where the base has no linear weight, or where the delta comes after its nonlinearity;
        ``allow_inexact`` then adds the delta to the weight all the same.
        """
        checks.flag("allow_inexact", allow_inexact)
        if self.site == "weight" or is_affine(self.base_layer.to_graph()):
            return merged_layer(self, self.base_layer)
        inside = weight_uses(self.base_layer, self.has_pairs)
        (outside,) = self._sites.values()
        if len(inside) != 1 or not inside[0].is_beside(outside):
            raise MergeError(
                f"{self.base_layer.layer_name} has no linear weight from its input to its output that the delta could "
                "go into" + ("; build the adapter with site='weight' to change those inside" if inside else "")
            )
        if not allow_inexact:
            raise MergeError(
                f"{_described(self.base_layer)} is not x W + b, so no weight can stand for what is added to its "
                "output; build the adapter with site='weight', or pass allow_inexact=True"
            )
        twin = copy.copy(self)
        twin.site, twin._sites = "weight", dict.fromkeys(self._sites, inside[0])
        return merged_layer(twin, self.base_layer)

    def get_diagnostics(self) -> dict[str, str]:
        return {
            **super().get_diagnostics(),
            "family": self.family,
            "base_layer": type(self.base_layer).__name__,
            "base_frozen": str(self._freeze_base),
            "site": self.site,
            **self.described_scale(),
            **{key: value for key, value in self.base_layer.get_diagnostics().items() if key == "activation"},
        }


def _described(layer: Layer) -> str:
    """The layer's name, with the activation that keeps it from being linear."""
    activation = layer.get_diagnostics().get("activation", "identity")
    return layer.layer_name if activation == "identity" else f"{layer.layer_name} with activation {activation}"


def _names(branch: str, sites: list[Site]) -> list[str]:
    """``lora`` for a single branch; ``lora_ih``, ``lora_hh`` … after the weights where there are several."""
    if len(sites) == 1:
        return [branch]
    names = [f"{branch}_{site.label.replace('.', '_').removeprefix('weight_')}" for site in sites]
    if len(set(names)) < len(names):
        raise ValueError(
            f"the weights {', '.join(site.label for site in sites)} lead to the same name twice in {names}"
        )
    return names
