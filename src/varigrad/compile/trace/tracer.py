"""Tracing: runs a function of tensors once, and records its operations as a graph.

The function runs on the real tensors. Tensors that it reads besides its inputs (the user's data, mostly) become inputs
too, by reference. Code that cannot be traced (a branch on a value, a conversion to numpy) is refused, with the user's
line.
"""

from __future__ import annotations

import math
import operator
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx
from torch import distributions as td
from torch.overrides import TorchFunctionMode

from varigrad._torch_internals import (
    DisableTorchFunction,
    OpOverload,
    TorchDispatchMode,
    dispatch_mode_stack,
    efficientzerotensor,
    linalg_check_errors,
    local_scalar_dense,
    pytree,
    schema_of_operator,
    schema_or_none,
    validates_arguments,
)
from varigrad.compile.graph.errors import OURS, CaptureError, as_capture_error, capture_error, users_line
from varigrad.compile.graph.graph import Graph
from varigrad.compile.graph.memory_layout import GEOMETRY, LINE, Geometry
from varigrad.compile.trace.decompositions import decomposed
from varigrad.compile.trace.indexing import IndexCopies, get_item, one_hot, set_item
from varigrad.terms.provenance import Tracked

_aten = torch.ops.aten
_VALIDATION = threading.RLock()
_SELF_VALIDATING = {sys.modules[kind.__module__].__file__ for kind in (td.ContinuousBernoulli, td.Wishart)}


def trace(function: Callable[[], list[Tensor]], inputs: Sequence[Tensor], mutable: Sequence[Tensor] = ()) -> Graph:
    """Trace `function()`, which reads the very tensors in `inputs`.

    Args:
        inputs: distinct tensors, which share no memory.
        mutable: those of them that the function may write into.

    Raises:
        CaptureError: something in the function cannot be traced.
    """
    tracer = _Tracer(inputs, mutable)
    try:
        with _Rewriting(tracer.copies), _unvalidated(), tracer:
            results = function()
        operations = tracer.finish(results)
    except CaptureError:
        raise
    except Exception as error:
        raise as_capture_error(error) from error
    tags = [tag for node in operations.nodes for tag in getattr(node.target, "tags", ())]
    random = torch.Tag.nondeterministic_seeded in tags
    return Graph(operations, len(inputs), tuple(tracer.constants), random, tuple(tracer.read.values()))


def is_tracing() -> bool:
    """Whether the current operations are being traced."""
    return any(isinstance(mode, _Tracer) for mode in dispatch_mode_stack())


class _Tracer(TorchDispatchMode):
    """A mode that records every operation that reaches torch's dispatcher as a node of a graph.

    Smaller than `make_fx`, ten times faster, and without its import of all of Inductor.
    """

    def __init__(self, inputs: Sequence[Tensor], mutable: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch has no types there
        self.graph = fx.Graph()
        self._writable = {_memory_of(tensor) for tensor in mutable}
        self._nodes: dict[int, fx.Node] = {}
        self._alive: list[Tensor] = []
        self._made: dict[int, list[tuple[Tensor, fx.Node]]] = {}
        """Results by the memory that they lie in, unless it is an input's or a constant's."""
        self._given = {_memory_of(tensor) for tensor in inputs}
        """The memories of inputs and constants."""
        self._varying: set[fx.Node] = set()
        """Nodes computed from inputs: their values differ from call to call."""
        for i, tensor in enumerate(inputs):
            self._varying.add(self._register(tensor, self.graph.placeholder(f"input_{i}")))
        self.constants: list[Tensor] = []
        self.read: dict[int, Tensor] = {}
        self.copies = IndexCopies(_memory_of)
        self._lifted: list[fx.Node] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch would import its compiler to keep it away from the tracer

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is _aten.lift_fresh.default:
            func = _aten.clone.default  # a literal: what is written into it is gone at the next call
        if func is efficientzerotensor.default:
            func = _aten.zeros.default  # a tensor without memory, which torch makes for gradients that are zero
        if func is _aten.index.Tensor:
            args = (args[0], self._without_masks(args[1]))
        otherwise = decomposed(func, args, kwargs)
        if otherwise is not None:
            with self:
                return otherwise()
        if self.copies:
            self._note_use_of_copies(func, args, kwargs)
        given: list[fx.Node] = []
        operands = self._as_nodes(args, given), {k: self._as_nodes(v, given) for k, v in kwargs.items()}
        varying = any(node in self._varying for node in given) or torch.Tag.nondeterministic_seeded in func.tags
        if func is local_scalar_dense.default:
            if varying and not _is_validation():
                raise capture_error(
                    "Python asks for the value of a tensor here (an `if`, a `range`, `.item()`, `float()`), and a "
                    "graph has to be the same for all values",
                    "torch.where(condition, a, b), a masked plate, or an index tensor",
                )
            if not varying:
                self._note_read(given)
            return func(*args, **kwargs)
        if func is linalg_check_errors.default:
            func(*args, **kwargs)
            self._nan_where_failed(args[0])
            return None
        if torch.Tag.dynamic_output_shape in func.tags and func is not _aten.index.Tensor:
            if varying:
                raise capture_error(f"the size of what {func} returns depends on values", "torch.where, or a mask")
            self._note_read(given)
        if any(isinstance(v, torch.Generator) for v in kwargs.values()):
            raise capture_error("the program draws from a generator of its own", "sample()")
        if schema_of_operator(func).is_mutable:
            self._refuse_foreign(func, args, kwargs)
        result = func(*args, **kwargs)
        node = self.graph.call_function(func, *operands)
        node.meta[LINE] = users_line(trace.__code__)
        if varying:
            self._varying.add(node)
            if schema_of_operator(func).is_mutable:
                self._varying.update(self._nodes_written(func, args, kwargs))
        if isinstance(result, Tensor):
            self._register_result(result, node)
        elif isinstance(result, (tuple, list)):
            for i, part in enumerate(result):
                if isinstance(part, Tensor):
                    piece = self._register_result(part, self.graph.call_function(operator.getitem, (node, i)))
                    if varying:
                        self._varying.add(piece)
        return result

    def finish(self, results: Sequence[Tensor]) -> fx.Graph:
        """The graph that returns these tensors."""
        self.copies.note_reads(results)
        self.copies.finish()
        self.graph.output([self._node(r) for r in results])
        first = next(n for n in self.graph.nodes if n.op != "placeholder")
        for node in self._lifted:
            first.prepend(node)
        self.graph.eliminate_dead_code(is_impure_node=_changes_something)
        return self.graph

    def _note_use_of_copies(self, func: OpOverload, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        self.copies.note_reads(t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor))
        for target in _targets(func, args, kwargs):
            self.copies.note_write(target)

    def _refuse_foreign(self, func: OpOverload, args: Sequence[object], kwargs: Mapping[str, object]) -> None:
        """Refuse to write into a tensor that outlives the call: a check would write into it a second time."""
        for target in _targets(func, args, kwargs):
            self._node(target)
            memory = _memory_of(target._plain if type(target) is Tracked else target)
            if memory in self._given and memory not in self._writable:
                raise capture_error(
                    "it writes into a tensor that outlives the call", "a buffer of a module(...), or a new tensor"
                )

    def _nodes_written(
        self, func: OpOverload, args: Sequence[object], kwargs: Mapping[str, object]
    ) -> Iterator[fx.Node]:
        """The nodes of all that lies in the memory written into; what is only read (a mask, say) stays as it is."""
        for target in _targets(func, args, kwargs):
            yield self._node(target)
            plain = target._plain if type(target) is Tracked else target
            yield from (node for _, node in self._made.get(_memory_of(plain), ()))

    def _nan_where_failed(self, info: Tensor) -> None:
        """Make a matrix decomposition's results NaN where it fails: torch raises an error there, a graph cannot."""
        source = self._node(info).args[0]
        made = [(entries, i, *entry) for entries in self._made.values() for i, entry in enumerate(entries)]
        for entries, i, tensor, node in made:
            if node.target is operator.getitem and node.args[0] is source and tensor.is_floating_point():
                with self:  # the condition as well: outside it would be a constant, what it was when traced
                    failed = (info != 0).reshape(*info.shape, *(1,) * (tensor.dim() - info.dim()))
                    checked = self._node(torch.where(failed, math.nan, tensor))
                checked.meta[GEOMETRY] = node.meta[GEOMETRY]
                self._nodes[id(tensor)] = checked
                entries[i] = (tensor, checked)

    def _without_masks(self, indices: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Indices without masks: a mask that is constant becomes the indices that it selects."""
        found: list[Tensor | None] = []
        for index in indices:
            if index is None or index.dtype not in (torch.bool, torch.uint8):
                found.append(index)
                continue
            node = self._node(index)
            if node in self._varying:
                raise capture_error("the size of what a mask selects depends on its values", "torch.where, or a mask")
            self._note_read([node])
            found += index.nonzero().unbind(1)
        return found

    def _note_read(self, nodes: Sequence[fx.Node]) -> None:
        """Note that Python, or a shape, depends on the values of nodes: on the constants that these come from."""
        seen, left = set(nodes), list(nodes)
        while left:
            node = left.pop()
            if node in self._lifted:
                constant = self.constants[self._lifted.index(node)]
                self.read[id(constant)] = constant
            left += [n for n in node.all_input_nodes if n not in seen]
            seen.update(node.all_input_nodes)

    def _register(self, tensor: Tensor, node: fx.Node) -> fx.Node:
        self._alive.append(tensor)  # or another might be given its id
        node.meta.setdefault(GEOMETRY, _geometry(tensor))
        return self._nodes.setdefault(id(tensor), node)

    def _register_result(self, tensor: Tensor, node: fx.Node) -> fx.Node:
        memory = _memory_of(tensor)
        if memory not in self._given:
            self._made.setdefault(memory, []).append((tensor, node))
        return self._register(tensor, node)

    def _node(self, tensor: Tensor) -> fx.Node:
        known = self._nodes.get(id(tensor))
        if known is not None:
            return known
        if type(tensor) is Tracked:
            return self._node(tensor._plain)
        found = self._made.get(_memory_of(tensor), ())
        if found:  # another view of a result, made where no operation is seen (`.data`, Parameter, scripted code)
            geometry = _geometry(tensor)
            for other, node in found:
                if _geometry(other) == geometry:
                    return self._register(tensor, node)
            raise capture_error("a result would be frozen: it comes back some way that a recording does not see")
        if tensor.layout is not torch.strided or tensor.is_neg() or tensor.is_conj():
            raise capture_error(
                "a library reads plain memory, and this tensor is sparse, or negated lazily", "a dense copy"
            )
        node = self.graph.placeholder(f"constant_{len(self.constants)}")
        self.constants.append(tensor)
        self._given.add(_memory_of(tensor))
        self._lifted.append(node)
        return self._register(tensor, node)

    def _as_nodes(self, value: Any, given: list[fx.Node]) -> Any:
        """A value with the node of each tensor in its place; the nodes are also appended to `given`."""
        if isinstance(value, Tensor):
            node = self._node(value)
            given.append(node)
            return node
        if isinstance(value, (tuple, list)):
            return type(value)([self._as_nodes(v, given) for v in value])
        return value


def _targets(func: OpOverload, args: Sequence[object], kwargs: Mapping[str, object]) -> Iterator[Tensor]:
    """The tensors that an operation writes into."""
    for i, argument in enumerate(schema_of_operator(func).arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            target = args[i] if i < len(args) else kwargs.get(argument.name)
            for tensor in target if isinstance(target, (tuple, list)) else (target,):
                if isinstance(tensor, Tensor):
                    yield tensor


def _memory_of(tensor: Tensor) -> int:
    """The address of a tensor's storage; for a tensor without memory a number of its own."""
    with DisableTorchFunction():
        if tensor.layout is not torch.strided or not tensor.numel():
            return -id(tensor)
        return tensor.untyped_storage().data_ptr()


def _geometry(tensor: Tensor) -> Geometry:
    with DisableTorchFunction():
        kind, shape = tensor.dtype, tuple(tensor.shape)
        if tensor.layout is not torch.strided:
            return Geometry(_memory_of(tensor), 0, shape, (), kind)
        return Geometry(_memory_of(tensor), int(tensor.storage_offset()), shape, tensor.stride(), kind)


class _Rewriting(TorchFunctionMode):
    """A mode that replaces calls in which torch would read a value by operations on tensors, or refuses them."""

    def __init__(self, copies: IndexCopies) -> None:
        super().__init__()
        self._copies = copies

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in _FROM_VALUES and any(
            isinstance(v, Tensor) for a in args[:2] for v in pytree.tree_leaves(a) if a is not v
        ):
            raise capture_error(f"{func.__name__} of a list takes the values of the tensors in it", "torch.stack")
        if func is Tensor.__getitem__:
            return get_item(args[0], args[1], self._copies)
        if func is Tensor.__setitem__:
            return set_item(args[0], args[1], args[2], self._copies)
        if func is torch.nn.functional.one_hot:
            return one_hot(*args, **(kwargs or {}))
        if func in _OUT_OF_TORCH:
            raise capture_error(f"{func.__name__} takes a tensor's value out of torch")
        return func(*args, **(kwargs or {}))


@contextmanager
def _unvalidated() -> Iterator[None]:
    """Switch the default validation of torch's distributions off: it would read values."""
    with _VALIDATION:  # the setting is the process's: one thread at a time
        before = validates_arguments(td.Distribution)
        td.Distribution.set_default_validate_args(False)
        try:
            yield
        finally:
            td.Distribution.set_default_validate_args(before)


_OUT_OF_TORCH = frozenset(
    {
        Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.__dlpack__, Tensor.__deepcopy__, Tensor.data_ptr,
        Tensor.untyped_storage,
    }
)  # fmt: skip

_FROM_VALUES = frozenset({torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor})


def _is_validation() -> bool:
    """Whether one of torch's families is validating its arguments in spite of the default, only to raise an error."""
    frame = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename.startswith(OURS):
        if frame.f_code.co_filename in _SELF_VALIDATING:
            return frame.f_code.co_name == "__init__"
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _changes_something(node: fx.Node) -> bool:
    schema = schema_or_none(node.target)
    return node.op in ("placeholder", "output") or (schema is not None and schema.is_mutable)
