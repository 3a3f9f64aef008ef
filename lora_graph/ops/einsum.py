"""Sums of products over named indices."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_letters
from typing import Any

import numpy as np

from lora_graph.ir.dims import Dim, Shape, product
from lora_graph.ir.op import Op
from lora_graph.ir.types import TensorType, broadcast, meet
from lora_graph.ir.value import Value, apply
from lora_graph.ops.base import Cotangents, store, unbroadcast
from lora_graph.ops.linalg import eye
from lora_graph.ops.shape import expand, squeeze, unsqueeze

TERM = re.compile(r"[A-Za-z]*(\.\.\.)?[A-Za-z]*")


@dataclass(frozen=True, eq=False)
class Einsum(Op):
    """y = Σ of products over the indices of ``equation`` that its result has not, as ``numpy.einsum`` (opset 12).

    ``ij,jk->ik`` is a matrix product. ``...`` stands for leading axes that broadcast; without an arrow the result has
    the indices that occur once, in the order of the alphabet.
    """

    equation: str

    def __post_init__(self) -> None:
        text = self.equation.replace(" ", "")
        terms, _, result = text.partition("->")
        if not all(TERM.fullmatch(term) for term in (*terms.split(","), result)):
            raise ValueError(f"{self.name}: cannot read the equation {self.equation!r}")
        object.__setattr__(self, "equation", text)

    def terms(self, ranks: Sequence[int]) -> tuple[list[str], str]:
        """The letters of each operand's axes and of the result's, with letters for what ``...`` stands for."""
        text, arrow, result = self.equation.partition("->")
        terms = text.split(",")
        if len(terms) != len(ranks):
            raise ValueError(f"{self.name}: {self.equation!r} has {len(terms)} operands, got {len(ranks)}")
        extra = [rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks, strict=True)]
        if any(more < 0 or (more and "..." not in term) for term, more in zip(terms, extra, strict=True)):
            raise ValueError(f"{self.name}: {self.equation!r} does not fit operands of {list(ranks)} axes")
        if len({more for term, more in zip(terms, extra, strict=True) if "..." in term}) > 1:
            raise ValueError(f"{self.name}: ... must stand for the same number of axes in each operand, as in ONNX")
        dots = "".join(letter for letter in ascii_letters if letter not in self.equation)[: max(extra)]
        if not arrow:
            counted = Counter(text.replace("...", "").replace(",", ""))
            result = "..." * ("..." in text) + "".join(sorted(letter for letter, n in counted.items() if n == 1))
        filled = [term.replace("...", dots) for term in terms]
        full = result.replace("...", dots)
        if len(set(full)) != len(full) or set(full) - set("".join(filled)):
            raise ValueError(f"{self.name}: the result of {self.equation!r} has an index twice, or one of no operand")
        return filled, full

    def _sizes(self, terms: Sequence[str], operands: Sequence[TensorType]) -> dict[str, Dim]:
        named = set(self.equation)
        sizes: dict[str, Dim] = {}
        for term, operand in zip(terms, operands, strict=True):
            for letter, size in zip(term, operand.shape, strict=True):
                what = f"{self.name} {self.equation!r}: index {letter!r} of {operand}"
                known = sizes.get(letter, size)
                sizes[letter] = meet(known, size, what) if letter in named else broadcast((known,), (size,), what)[0]
        return sizes

    def infer(self, *operands: TensorType) -> TensorType:
        terms, result = self.terms([operand.rank for operand in operands])
        first = operands[0]
        if first.dtype.kind == "b" or any(operand.dtype != first.dtype for operand in operands):
            raise TypeError(f"{self.name}: operands must be numbers of one dtype, got {', '.join(map(str, operands))}")
        sizes = self._sizes(terms, operands)
        return first.with_shape([sizes[letter] for letter in result])

    def evaluate(self, *operands: Any, out: Any = None) -> Any:
        terms, result = self.terms([operand.ndim for operand in operands])
        wide = [x.astype(np.float32) if x.dtype == np.float16 else x for x in operands]
        ones = _stretched(terms, [x.shape for x in wide])
        parts = [x.squeeze(tuple(axes)) for x, axes in zip(wide, ones, strict=True)]
        kept = [_without(term, axes) for term, axes in zip(terms, ones, strict=True)]
        y = np.einsum(f"{','.join(kept)}->{result}", *parts, optimize=len(parts) > 1)
        return store(np.asarray(y, operands[0].dtype), out)

    def pullback(self, cotangent: Value, result: Value, *operands: Value) -> Cotangents:
        terms, full = self.terms([operand.rank for operand in operands])
        sizes = self._sizes(terms, [operand.type for operand in operands])
        ones = _stretched(terms, [operand.shape for operand in operands])
        parts = [(_without(t, axes), squeeze(x, axes)) for t, x, axes in zip(terms, operands, ones, strict=True)]
        return tuple(
            unbroadcast(_spread(term, [(full, cotangent), *parts[:i], *parts[i + 1 :]], sizes, x.dtype), x.shape)
            for i, (term, x) in enumerate(zip(terms, operands, strict=True))
        )

    def flops(self, result: Any, *operands: TensorType) -> Any:
        """Of one loop over all indices, whatever order the products are computed in."""
        terms, full = self.terms([operand.rank for operand in operands])
        sizes = self._sizes(terms, operands)
        return product(list(sizes.values())) * (len(terms) - 1 + (len(sizes) > len(full)))


def _stretched(terms: Sequence[str], shapes: Sequence[Shape]) -> list[list[int]]:
    """The axes of each operand that have size 1 and meet others that have not."""
    pairs = [list(zip(term, shape, strict=True)) for term, shape in zip(terms, shapes, strict=True)]
    longer = {letter for pair in pairs for letter, size in pair if size != 1}
    return [[i for i, (letter, size) in enumerate(pair) if size == 1 and letter in longer] for pair in pairs]


def _without(term: str, axes: Sequence[int]) -> str:
    return "".join(letter for i, letter in enumerate(term) if i not in axes)


def _spread(term: str, parts: list[tuple[str, Value]], sizes: dict[str, Dim], dtype: np.dtype[Any]) -> Value:
    """Σ of the products of ``parts`` with the axes of ``term``: on the diagonal where it repeats an index."""
    fresh = iter(letter for letter in ascii_letters if letter not in "".join(t for t, _ in parts) + term)
    sizes, apart = dict(sizes), ""
    for letter in term:
        own = next(fresh) if letter in apart else letter
        if own != letter:
            parts = [*parts, (letter + own, eye(sizes[letter], dtype))]
            sizes[own] = sizes[letter]
        apart += own
    held = {letter for t, _ in parts for letter in t}
    equation = f"{','.join(t for t, _ in parts)}->{''.join(letter for letter in apart if letter in held)}"
    found: Value = apply(Einsum(equation), *(x for _, x in parts))
    missing = [i for i, letter in enumerate(apart) if letter not in held]
    return expand(unsqueeze(found, missing), [sizes[letter] for letter in apart])


def einsum(equation: str, *operands: Any) -> Any:
    """Σ of products over the indices of ``equation`` that its result has not, as ``numpy.einsum``."""
    return apply(Einsum(equation), *operands)
