"""How things show themselves in notebooks: they know nothing of drawing, and what draws them names itself here."""

from __future__ import annotations

from importlib import import_module

_drawers: list[str] = []


def drawn_by(module: str) -> None:
    """From now on ``module``, imported when it is first needed, draws: its ``html(thing)`` and its ``svg(thing)``."""
    _drawers[:] = [module]


class Shown:
    """A thing that notebooks draw rather than print."""

    def _repr_html_(self) -> str | None:
        return _drawn("html", self)

    def _repr_svg_(self) -> str | None:
        return _drawn("svg", self)


def _drawn(kind: str, thing: object) -> str | None:
    """The text of a drawing; None, which has a notebook print the thing, where there is none."""
    drawn: str | None = getattr(import_module(_drawers[0]), kind)(thing) if _drawers else None
    return drawn
