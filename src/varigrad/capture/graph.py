"""From a function of tensors to a graph of torch's own operations.

The function is run once, on the real tensors, and every operation is recorded. What it reads besides its inputs (the
user's data, mostly) becomes an input too, by reference. What cannot be recorded (a branch on a value, a conversion to
numpy) is refused, with the user's line.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, fx
from torch import distributions as td
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode

from varigrad.errors import VarigradError
from varigrad.terms.provenance import Tracked

_aten = torch.ops.aten
_OURS = (str(Path(__file__).parents[1]), str(Path(torch.__file__).parent))


class CaptureError(VarigradError):
    """A program that has to run eagerly, and why."""


@dataclass(frozen=True, eq=False)
class Graph:
    """A recorded function.

    Attributes:
        module: takes `inputs + constants`, returns a list of tensors.
        inputs: how many of its placeholders are the function's inputs.
        constants: tensors that the function read besides.
        random: whether it draws from torch's global generator.
    """

    module: fx.GraphModule
    inputs: int
    constants: tuple[Tensor, ...]
    random: bool

    @property
    def size(self) -> int:
        """The number of operations."""
        return sum(node.op == "call_function" for node in self.module.graph.nodes)


def record(function: Callable[[], list[Tensor]], inputs: Sequence[Tensor]) -> Graph:
    """Record `function()`, which reads the very tensors in `inputs`.

    Args:
        inputs: distinct tensors, each with memory of its own.

    Raises:
        CaptureError: something in it cannot be recorded.
    """
    try:
        with _Recording(), _unvalidated():
            module: fx.GraphModule = make_fx(lambda *_: function())(*inputs)
    except CaptureError:
        raise
    except Exception as error:
        raise _explained(error) from error
    graph = module.graph
    graph.eliminate_dead_code(is_impure_node=_changes_something)
    constants = _lift(module)
    if any(type(c) is Tracked for c in constants):
        raise CaptureError(
            "a random choice would be frozen into the graph",
            because="it reached torch some way that a recording does not see",
            try_="the operation written with torch functions on the value itself",
        )
    random = any(torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()) for node in graph.nodes)
    for node in graph.nodes:
        node.meta = {}
    module.recompile()
    return Graph(module, len(inputs), constants, random)


def reached(graph: fx.Graph, sources: Sequence[fx.Node]) -> dict[fx.Node, frozenset[int]]:
    """For every node, which of the `sources` (by position) it was computed from.

    A write into memory counts for everything that shares the memory.
    """
    own = {node: i for i, node in enumerate(sources)}
    memory: dict[fx.Node, fx.Node] = {}
    known: dict[fx.Node, frozenset[int]] = {}

    def base(node: fx.Node) -> fx.Node:
        while memory.get(node, node) is not node:
            node = memory[node]
        return node

    for node in graph.nodes:
        found = frozenset([own[node]]) if node in own else frozenset()
        for given in node.all_input_nodes:
            found |= known[base(given)]
        known[node] = found
        if node.op != "call_function" or not hasattr(node.target, "_schema"):
            continue
        for argument, given in zip(node.target._schema.arguments, node.args, strict=False):
            alias = argument.alias_info
            if alias is None or not isinstance(given, fx.Node):
                continue
            root = base(given)
            known[root] |= found if alias.is_write else frozenset()
            known[root] |= found if node in own else frozenset()
            memory[node] = root
    return {node: known[base(node)] for node in graph.nodes}


class _Recording(TorchFunctionMode):
    """Writes what torch itself would turn into a Python number as an operation on tensors; refuses the rest."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__getitem__:
            return _indexed(args[0], args[1])
        if func is torch.nn.functional.one_hot:
            return _one_hot(*args, **(kwargs or {}))
        if func in _LEAVES:
            raise _refusal(f"{func.__name__} takes a tensor's value out of torch")
        return func(*args, **(kwargs or {}))


@contextmanager
def _unvalidated() -> Iterator[None]:
    """Distributions of torch itself do not look at values unless they were told to one by one."""
    before = td.Distribution._validate_args
    td.Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        td.Distribution.set_default_validate_args(before)


_LEAVES = frozenset({Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.data_ptr, Tensor.untyped_storage})


def _indexed(tensor: Tensor, index: Any) -> Tensor:
    """`tensor[index]`, for which torch reads the value of an index without dimensions."""
    parts = index if isinstance(index, tuple) else (index,)
    if not any(_is_scalar(i) for i in parts):
        return tensor[index]
    if any(i is None or i is Ellipsis or isinstance(i, (list, range)) for i in parts) or any(
        isinstance(i, Tensor) and i.dim() for i in parts
    ):
        # Beside other tensors an index of one element broadcasts as one of no dimensions would.
        return tensor[tuple(i.reshape(1) if _is_scalar(i) else i for i in parts)]
    dim = 0
    for i in parts:
        if _is_scalar(i):
            tensor = tensor.index_select(dim, i.reshape(1).long()).squeeze(dim)
        elif isinstance(i, slice):
            tensor = tensor[(slice(None),) * dim + (i,)]
            dim += 1
        else:
            tensor = tensor.select(dim, i)
    return tensor


def _is_scalar(index: Any) -> bool:
    integers = (torch.int64, torch.int32, torch.int16, torch.int8)
    return isinstance(index, Tensor) and index.dim() == 0 and index.dtype in integers


def _one_hot(index: Tensor, num_classes: int = -1) -> Tensor:
    if num_classes < 0:
        raise _refusal("one_hot without num_classes looks for the largest value")
    return (index.unsqueeze(-1) == torch.arange(num_classes, device=index.device)).to(torch.int64)


def _refusal(reason: str) -> CaptureError:
    stack = traceback.extract_stack()
    frame = next((f for f in reversed(stack) if not f.filename.startswith(_OURS)), stack[-1])
    return CaptureError(
        f"{frame.filename}:{frame.lineno}: {frame.line}", because=reason, try_="the same in torch operations"
    )


def _explained(error: Exception) -> CaptureError:
    """The user's line, why it cannot be recorded, and what to write instead."""
    line = _users_line(error.__traceback__)
    text = str(error)
    if "tracing tensor" in text or "data-dependent" in text:
        return CaptureError(
            line,
            because="Python asks for the value of a tensor here (an `if`, a `range`, `.item()`, `float()`), and "
            "a graph has to be the same for all values",
            try_="torch.where(condition, a, b), a masked plate, or an index tensor",
        )
    first = re.split(r"[\n]", text.strip())[0][:200]
    return CaptureError(line, because=f"{type(error).__name__}: {first}", try_="compile=False for this program")


def _users_line(trace: TracebackType | None) -> str:
    frames = traceback.extract_tb(trace)
    users = [f for f in frames if not f.filename.startswith(_OURS)]
    if not users:
        return "inside the library"
    return f"{users[-1].filename}:{users[-1].lineno}: {users[-1].line}"


def _changes_something(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return node.op in ("placeholder", "output") or (schema is not None and schema.is_mutable)


def _lift(module: fx.GraphModule) -> tuple[Tensor, ...]:
    """Turn the tensors that the graph holds into placeholders, after the ones it has."""
    graph = module.graph
    last = [node for node in graph.nodes if node.op == "placeholder"][-1]
    found: dict[int, fx.Node] = {}
    constants: list[Tensor] = []
    for node in [n for n in graph.nodes if n.op == "get_attr"]:
        value = getattr(module, str(node.target))
        if id(value) not in found:
            with graph.inserting_after(last):
                last = found[id(value)] = graph.placeholder(f"constant_{len(constants)}")
            constants.append(value)
        node.replace_all_uses_with(found[id(value)])
        graph.erase_node(node)
    return tuple(constants)
