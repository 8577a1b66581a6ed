"""Random graphs, drawn by a seed: shapes of a small palette, so that tensors meet; what torch refuses is not drawn."""

import math
import random
import warnings
from dataclasses import dataclass, field

import torch
from torch import Tensor

from random_graphs import operations
from random_graphs.graphs import Input, RandomGraph, Step, run

KINDS = (torch.float32, torch.float64, torch.int64, torch.int32, torch.uint8, torch.bool)
WEIGHTS = (8, 5, 3, 1, 1, 2)
LAYOUTS = ("plain", "plain", "turned", "part", "shifted", "spread")
PALETTES = (
    (1, 3, 4), (2, 5), (1, 2, 3), (3, 7, 1), (4, 9), (0, 3), (2, 17, 1), (5, 40), (1, 200), (70, 33), (130, 3),
    (2, 4097),
)  # fmt: skip
"""The sizes of a graph's dimensions: short and long rows, sums of few and of many terms, small and large products."""
LARGEST = 20_000
"""Elements of a tensor."""
FAR = 1e4
"""The largest number: rounding errors of larger ones say little."""
KIND_OF_TABLE = {False: operations.WHOLE, True: operations.REAL}


@dataclass
class _Draft:
    """A graph that is being drawn, with the values that it has for its inputs."""

    inputs: list[Input]
    tensors: list[Tensor]
    steps: list[Step] = field(default_factory=list)
    values: list[Tensor | None] = field(default_factory=list)

    def again(self) -> None:
        """Compute all values anew: a step that was given up may have written into some."""
        self.values = list(self.tensors)
        for step in self.steps:
            self.values.append(step(self.values))


def drawn(seed: int, length: int = 30) -> RandomGraph:
    """The graph of a seed."""
    rng = random.Random(seed)
    palette = rng.choice(PALETTES)
    special = rng.random() < 0.2
    inputs = [_input(rng, palette, special) for _ in range(rng.randint(2, 5))]
    draft = _Draft(inputs, [i.make() for i in inputs])
    draft.again()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(20 * length):
            if len(draft.steps) == length:
                break
            _extend(draft, rng, special)
        able = [i for i, v in enumerate(draft.values) if v is not None and i >= len(inputs)]
        outputs = tuple(i for i in able if rng.random() < 0.3 or i in able[-2:])
        graph = RandomGraph(tuple(inputs), tuple(draft.steps), outputs, False)
        return _with_slopes(graph, draft.tensors) if rng.random() < 0.6 and not special else graph


def _with_slopes(graph: RandomGraph, tensors: list[Tensor]) -> RandomGraph:
    """The graph with the gradients of its outputs, if torch computes them."""
    wanted = RandomGraph(graph.inputs, graph.steps, graph.outputs, True)
    try:
        found = run(wanted, tensors)
    except (RuntimeError, NotImplementedError):
        return graph
    return wanted if len(found) > len(graph.outputs) else graph


def _input(rng: random.Random, palette: tuple[int, ...], special: bool) -> Input:
    while True:
        shape = tuple(rng.choice(palette) for _ in range(rng.choice((0, 1, 1, 2, 2, 2, 3))))
        if torch.Size(shape).numel() <= LARGEST:
            kind = rng.choices(KINDS, WEIGHTS)[0]
            return Input(shape, kind, rng.choice(LAYOUTS), rng.randrange(10**6), special and rng.random() < 0.5)


def _extend(draft: _Draft, rng: random.Random, special: bool) -> None:
    """Add a step, if torch takes it and its result is of use."""
    step = _proposed(draft, rng)
    if step is None:
        return
    versions = [None if v is None else v._version for v in draft.values]
    try:
        found = step(draft.values)
    except (RuntimeError, TypeError, IndexError, ValueError, NotImplementedError, AttributeError, ZeroDivisionError):
        found, good = None, False
    else:
        seen = [v for v in (found, draft.values[step.operands[0]] if step.writes else None) if v is not None]
        good = bool(seen) and all(_is_good(v, special) for v in seen)
    if good:
        draft.steps.append(step)
        draft.values.append(found)
    elif any(v is not None and v._version != version for v, version in zip(draft.values, versions, strict=True)):
        draft.again()


def _is_good(value: Tensor, special: bool) -> bool:
    if value.numel() > LARGEST or value.dim() > 4 or value.dtype not in KINDS or value.layout != torch.strided:
        return False
    if not value.is_floating_point():
        return not value.numel() or bool((value.long().abs() < 2**24).all())
    if special:
        return bool((value.abs().nan_to_num(0.0, 0.0, 0.0) < FAR).all())
    return bool((value.abs() < FAR).all())


def _proposed(draft: _Draft, rng: random.Random) -> Step | None:
    numbers = [i for i, v in enumerate(draft.values) if v is not None]
    recent = numbers[-6:] if rng.random() < 0.6 else numbers
    first = rng.choice(recent)
    second = rng.choice(numbers)
    x = draft.values[first]
    assert x is not None
    own = operations.TRUTH if x.dtype == torch.bool else KIND_OF_TABLE[x.is_floating_point()]
    table = rng.choices(
        (own, operations.TWO, operations.REDUCED, operations.MOVED, operations.JOINED, operations.MULTIPLIED,
         operations.LOOKED_UP, operations.WRITTEN, operations.WRITTEN_FROM),
        (8, 9, 6, 6, 2, 2, 3, 2, 3),
    )[0]  # fmt: skip
    writes = table in (operations.WRITTEN, operations.WRITTEN_FROM)
    if writes and not _is_writable(draft, first, second):
        return None
    text, rounds = rng.choice(table)
    text = _filled(text, x, rng)
    if text is None:
        return None
    if table in (operations.REDUCED, operations.MULTIPLIED):
        rounds *= max(1.0, math.sqrt(x.numel()) / 4)  # partial sums are rounded as well
    return Step(text, (first, second) if "{1}" in text else (first,), rounds, writes)


def _is_writable(draft: _Draft, first: int, second: int) -> bool:
    """Whether a value is a result, in memory of its own, that shares none with the second operand."""
    target, source = draft.values[first], draft.values[second]
    assert target is not None and source is not None
    place = target.untyped_storage().data_ptr()
    given = {t.untyped_storage().data_ptr() for t in draft.tensors}
    return place not in given and (first == second or place != source.untyped_storage().data_ptr())


def _filled(text: str, x: Tensor, rng: random.Random) -> str | None:
    """The text with its words in capitals drawn to fit the first operand; None where nothing fits."""
    rows = x.shape[0] if x.dim() else 0
    if ("INDEX" in text or "ORDER" in text or "AT" in text.replace("KEEP", "")) and not rows:
        return None
    dim = rng.randrange(-x.dim(), x.dim()) if x.dim() else 0
    dims = tuple(sorted(rng.sample(range(x.dim()), rng.randint(1, x.dim())))) if x.dim() else ()
    order = list(range(x.dim()))
    rng.shuffle(order)
    indices = [rng.randrange(rows) for _ in range(rng.randint(1, 5))] if rows else []
    places = list(range(rows))
    rng.shuffle(places)
    kind = rng.choice(("torch.int64", "torch.float32", "torch.float64"))
    pairs = [[rng.randrange(rows) for _ in range(3)] for _ in range(2)] if rows else []
    for word, meaning in (
        ("WHOLE", "{0}.nan_to_num(0.0, 9.0, -9.0).long()" if x.is_floating_point() else "{0}.long()"),
        ("INDEX2D", f"torch.tensor({pairs})"),
        ("INDEX", f"torch.tensor({indices})"),
        ("ORDER", f"torch.tensor({places})"),
        ("DIMS", str(dims)),
        ("DIM", str(dim)),
        ("KEEP", str(rng.random() < 0.5)),
        ("PERM", str(order)),
        ("KIND", kind),
        ("AT", str(rng.randrange(min(rows, *x.shape)) if rows and min(x.shape) else 0)),
    ):
        text = text.replace(word, meaning)
    return text
