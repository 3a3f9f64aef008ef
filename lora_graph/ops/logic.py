"""Comparison and logic, element by element: bool results, no derivative (ONNX opset 21)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from lora_graph.ops.base import Comparison


class Equal(Comparison):
    """y = (a = b)."""

    commutative: ClassVar[bool] = True
    kinds: ClassVar[str] = "fiub"
    ufunc = np.equal


class Greater(Comparison):
    """y = (a > b)."""

    ufunc = np.greater


class GreaterOrEqual(Comparison):
    """y = (a ≥ b)."""

    ufunc = np.greater_equal


class Less(Comparison):
    """y = (a < b)."""

    ufunc = np.less


class LessOrEqual(Comparison):
    """y = (a ≤ b)."""

    ufunc = np.less_equal


class And(Comparison):
    """y = a ∧ b."""

    commutative: ClassVar[bool] = True
    kinds: ClassVar[str] = "b"
    ufunc = np.logical_and


class Or(Comparison):
    """y = a ∨ b."""

    commutative: ClassVar[bool] = True
    kinds: ClassVar[str] = "b"
    ufunc = np.logical_or


class Xor(Comparison):
    """y = a ⊻ b."""

    commutative: ClassVar[bool] = True
    kinds: ClassVar[str] = "b"
    ufunc = np.logical_xor


class Not(Comparison):
    """y = ¬a."""

    kinds: ClassVar[str] = "b"
    ufunc = np.logical_not


class IsNaN(Comparison):
    """y = x is not a number."""

    kinds: ClassVar[str] = "f"
    ufunc = np.isnan
