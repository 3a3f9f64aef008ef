"""Choosing weights of a whole model by name: globs, module paths, regular expressions, predicates."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from lora_graph.adapters.site import Site, scoped_uses
from lora_graph.ir.types import show
from lora_graph.layers.layer import Layer

ALL_LINEAR = "all-linear"
SUFFIXES = (".weight", ".kernel", ".weight_ih", ".weight_hh")


@dataclass(frozen=True)
class Target:
    """A weight that can be adapted: the parameter ``name``, the module it belongs to, and its place."""

    name: str
    module: str
    kind: str
    """``linear``, ``convolution``, ``embedding`` or ``recurrent``."""
    shape: tuple[int, ...]
    site: Site

    @property
    def names(self) -> tuple[str, ...]:
        """What a pattern may call it."""
        bare = next((self.name.removesuffix(end) for end in SUFFIXES if self.name.endswith(end)), self.name)
        return tuple(dict.fromkeys(name for name in (self.name, bare, self.module) if name))

    def __str__(self) -> str:
        where = f"  in {self.module}" if self.module and self.module not in self.name else ""
        return f"{self.name} {show(self.shape)} {self.kind}{where}"


Pattern = str | re.Pattern[str] | Callable[[Target], bool]
Patterns = Pattern | Sequence[Pattern]


def targets(model: Layer, has_pairs: bool = True) -> list[Target]:
    """Every weight of ``model`` that can be adapted, in order of use; one that is used in several ways, as a tied
    embedding and head, once for each.

    ``has_pairs`` is what the family says of its branches (see :class:`~lora_graph.adapters.adapter.Adapter`).
    """
    found: dict[str, Target] = {}
    for site, module in scoped_uses(model, has_pairs):
        assert site.owner is not None
        shape = site.owner.slot(site.weight).array.shape
        found.setdefault(site.label, Target(site.label, module, _kind(site), shape, site))
    return list(found.values())


def _kind(site: Site) -> str:
    if site.is_lookup:
        return "embedding"
    return "convolution" if site.kernel else "recurrent" if site.changes_weight else "linear"


def choose(available: Sequence[Target], wanted: Patterns, exclude: Patterns = ()) -> list[Target]:
    """Those of ``available`` that a pattern of ``wanted`` matches and none of ``exclude``.

    A str is a glob where it has one of ``*?[``, else a name or the end of one, behind a dot; ``"all-linear"`` is every
    matrix product. A compiled regular expression has to match a name as a whole. Names are those of the parameter,
    with and without ``.weight``, and of its module. ValueError, with the nearest names, for a pattern that matches
    nothing, or where nothing is left; an ``exclude`` may match nothing.
    """
    chosen: dict[str, Target] = {}
    for pattern in _listed("targets", wanted):
        matched = [target for target in available if matches(pattern, target)]
        if not matched:
            raise ValueError(f"targets: nothing matches {_shown(pattern)}{_nearest(pattern, available)}")
        chosen.update((target.name, target) for target in matched)
    if not chosen:
        raise ValueError("targets must have at least one name, glob, regular expression or function, got none")
    left_out = _listed("exclude", exclude)
    left = [t for t in available if t.name in chosen and not any(matches(pattern, t) for pattern in left_out)]
    if not left:
        raise ValueError("exclude leaves nothing of what targets match: " + ", ".join(chosen))
    return left


def check_matched(name: str, patterns: Iterable[Pattern], chosen: Sequence[Target]) -> None:
    """ValueError, with the nearest names, for a pattern of the argument ``name`` that is one for none of ``chosen``."""
    for pattern in _listed(name, [*patterns]):
        if not any(matches(pattern, target) for target in chosen):
            raise ValueError(f"{name}: nothing adapted matches {_shown(pattern)}{_nearest(pattern, chosen)}")


def matches(pattern: Pattern, target: Target) -> bool:
    """Whether ``pattern`` is one for ``target``."""
    if callable(pattern):
        return bool(pattern(target))
    if isinstance(pattern, re.Pattern):
        return any(pattern.fullmatch(name) for name in target.names)
    if pattern == ALL_LINEAR:
        return target.kind == "linear"
    if any(sign in pattern for sign in "*?["):
        return any(fnmatchcase(name, pattern) for name in target.names)
    return any(name == pattern or name.endswith(f".{pattern}") for name in target.names)


def _listed(name: str, patterns: Patterns) -> list[Pattern]:
    several = isinstance(patterns, Sequence) and not isinstance(patterns, str)
    listed: list[Any] = [*patterns] if several else [patterns]  # type: ignore[misc]
    for pattern in listed:
        if not isinstance(pattern, str | re.Pattern) and not callable(pattern):
            raise TypeError(f"{name} must be names, globs, regular expressions or functions, got {pattern!r}")
    return listed


def _nearest(pattern: Pattern, available: Iterable[Target]) -> str:
    names = list(dict.fromkeys(name for target in available for name in target.names))
    if not names:
        return "; the model multiplies by no weight"
    text = pattern.pattern if isinstance(pattern, re.Pattern) else pattern if isinstance(pattern, str) else ""
    nearest = get_close_matches(text.strip("*"), names, n=5, cutoff=0.3) or names[:5]
    return f"; nearest: {', '.join(nearest)}"


def _shown(pattern: Pattern) -> str:
    return repr(pattern.pattern) if isinstance(pattern, re.Pattern) else repr(pattern)
