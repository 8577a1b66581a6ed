"""Helpers for shapes: sums over rightmost dimensions, and text or HTML tables for errors and reports."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

import torch
from torch import Tensor

Shape = torch.Size | list[int] | tuple[int, ...]
"""What torch takes for a shape."""


def sum_rightmost(value: Tensor, dims: int) -> Tensor:
    """Sum over the last `dims` dimensions: `[*batch, *event] -> [*batch]`."""
    return value if dims == 0 else value.sum(list(range(-dims, 0)))


def broadcasts(shape: Sequence[int], to: Sequence[int]) -> bool:
    """Whether `shape` broadcasts to exactly `to`."""
    return len(shape) <= len(to) and all(s in (1, t) for s, t in zip(reversed(shape), reversed(to), strict=False))


def join(*shapes: Sequence[int]) -> torch.Size:
    """The broadcast of several shapes (torch's own function would import SymPy, which takes a quarter of a second, and
    numpy's makes arrays).

    Raises:
        RuntimeError: they do not broadcast.
    """
    full: list[int] = []  # from the right
    for shape in shapes:
        for place, size in enumerate(reversed(shape)):
            if place == len(full):
                full.append(size)
            elif full[place] == 1:
                full[place] = size
            elif size not in (1, full[place]):
                raise RuntimeError(f"shapes {', '.join(str(tuple(s)) for s in shapes)} do not broadcast")
    return torch.Size(full[::-1])


def table(rows: Iterable[Sequence[object]], header: Sequence[str]) -> str:
    """A plain-text table with a header line, columns aligned left."""
    cells = [[str(c) for c in header], *([str(c) for c in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
    lines.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(lines)


def html(tables: Iterable[tuple[Sequence[str], Iterable[Sequence[object]]]], notes: Iterable[str]) -> str:
    """Tables, each a header and rows, and paragraphs below them, for notebooks."""
    parts = []
    for header, rows in tables:
        head = "".join(f"<th>{escape(h)}</th>" for h in header)
        body = "".join("<tr>" + "".join(f"<td>{escape(str(c))}</td>" for c in row) + "</tr>" for row in rows)
        parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")
    return "".join([*parts, *(f"<p>{escape(note)}</p>" for note in notes)])
