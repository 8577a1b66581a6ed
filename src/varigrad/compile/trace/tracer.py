"""From a function of tensors to a graph of torch's own operations.

The function is run once, on the real tensors, and every operation is recorded. What it reads besides its inputs (the
user's data, mostly) becomes an input too, by reference. What cannot be recorded (a branch on a value, a conversion to
numpy) is refused, with the user's line.
"""

from __future__ import annotations

import math
import operator
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx
from torch import distributions as td
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

from varigrad.compile.graph.errors import OURS, CaptureError, explained, line_of_the_user, refusal
from varigrad.compile.graph.geometry import GEOMETRY, LINE, Geometry
from varigrad.compile.graph.graph import Graph
from varigrad.compile.trace.decompositions import rewritten
from varigrad.compile.trace.indexing import indexed, one_hot, write
from varigrad.terms.provenance import Tracked

_aten = torch.ops.aten
_VALIDATION = threading.RLock()
_LOOKS = {sys.modules[kind.__module__].__file__ for kind in (td.ContinuousBernoulli, td.Wishart)}


def record(function: Callable[[], list[Tensor]], inputs: Sequence[Tensor], written: Sequence[Tensor] = ()) -> Graph:
    """Record `function()`, which reads the very tensors in `inputs`.

    Args:
        inputs: distinct tensors, each with memory of its own.
        written: those of them that it may write into.

    Raises:
        CaptureError: something in it cannot be recorded.
    """
    recorder = _Recorder(inputs, written)
    try:
        with _Recording(), _unvalidated(), recorder:
            results = function()
        operations = recorder.finish(results)
    except CaptureError:
        raise
    except Exception as error:
        raise explained(error) from error
    tags = [tag for node in operations.nodes for tag in getattr(node.target, "tags", ())]
    random = torch.Tag.nondeterministic_seeded in tags
    return Graph(operations, len(inputs), tuple(recorder.constants), random, tuple(recorder.read.values()))


def recording() -> bool:
    """Whether what is done now is being written down."""
    return any(isinstance(mode, _Recorder) for mode in _get_current_dispatch_mode_stack())


class _Recorder(TorchDispatchMode):
    """Writes down every operation that reaches torch's dispatcher; runs it, too.

    Smaller than `make_fx`, ten times faster, and without its import of all of Inductor.
    """

    def __init__(self, inputs: Sequence[Tensor], written: Sequence[Tensor]) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self._writable = {_memory_of(tensor) for tensor in written}
        self._nodes: dict[int, fx.Node] = {}
        self._alive: list[Tensor] = []
        self._made: dict[int, list[tuple[Tensor, fx.Node]]] = {}
        """Results by the memory they lie in,"""
        self._given = {_memory_of(tensor) for tensor in inputs}
        """unless that is an input's or a constant's."""
        self._moving: set[fx.Node] = set()
        """Nodes computed from inputs: their values differ from call to call."""
        for i, tensor in enumerate(inputs):
            self._moving.add(self._know(tensor, self.graph.placeholder(f"input_{i}")))
        self.constants: list[Tensor] = []
        self.read: dict[int, Tensor] = {}
        self._lifted: list[fx.Node] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nobody compiles a recording, and torch would import its compiler to prevent it

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is _aten.lift_fresh.default:
            func = _aten.clone.default  # a literal: what is written into it is gone at the next call
        if func is _aten._efficientzerotensor.default:
            func = _aten.zeros.default  # a tensor without memory, which torch makes for gradients that are zero
        if func is _aten.index.Tensor:
            args = (args[0], self._without_masks(args[1]))
        otherwise = rewritten(func, args, kwargs)
        if otherwise is not None:
            with self:
                return otherwise()
        given: list[fx.Node] = []
        written = self._written(args, given), {k: self._written(v, given) for k, v in kwargs.items()}
        moving = any(node in self._moving for node in given) or torch.Tag.nondeterministic_seeded in func.tags
        if func is _aten._local_scalar_dense.default:
            if moving and not _is_validation():
                raise refusal(
                    "Python asks for the value of a tensor here (an `if`, a `range`, `.item()`, `float()`), and a "
                    "graph has to be the same for all values",
                    "torch.where(condition, a, b), a masked plate, or an index tensor",
                )
            if not moving:
                self._note_read(given)
            return func(*args, **kwargs)
        if func is _aten._linalg_check_errors.default:
            func(*args, **kwargs)
            self._doubt(args[0])
            return None
        if torch.Tag.dynamic_output_shape in func.tags and func is not _aten.index.Tensor:
            if moving:
                raise refusal(f"the size of what {func} returns depends on values", "torch.where, or a mask")
            self._note_read(given)
        if any(isinstance(v, torch.Generator) for v in kwargs.values()):
            raise refusal("the program draws from a generator of its own", "sample()")
        if func._schema.is_mutable:
            self._refuse_foreign(func, args, kwargs)
        result = func(*args, **kwargs)
        node = self.graph.call_function(func, *written)
        node.meta[LINE] = line_of_the_user(record.__code__)
        if moving:
            self._moving.add(node)
            if func._schema.is_mutable:
                self._moving.update(self._nodes_written(func, args, kwargs))
        if isinstance(result, Tensor):
            self._make(result, node)
        elif isinstance(result, (tuple, list)):
            for i, part in enumerate(result):
                if isinstance(part, Tensor):
                    piece = self._make(part, self.graph.call_function(operator.getitem, (node, i)))
                    if moving:
                        self._moving.add(piece)
        return result

    def finish(self, results: Sequence[Tensor]) -> fx.Graph:
        """The graph that returns these tensors."""
        self.graph.output([self._node(r) for r in results])
        first = next(n for n in self.graph.nodes if n.op != "placeholder")
        for node in self._lifted:
            first.prepend(node)
        self.graph.eliminate_dead_code(is_impure_node=_changes_something)
        return self.graph

    def _refuse_foreign(self, func: Any, args: Any, kwargs: Any) -> None:
        """A check would write a second time into what is not the program's own."""
        for i, argument in enumerate(func._schema.arguments):
            target = args[i] if i < len(args) else kwargs.get(argument.name)
            if argument.alias_info is not None and argument.alias_info.is_write and isinstance(target, Tensor):
                self._node(target)
                memory = _memory_of(target._plain if type(target) is Tracked else target)
                if memory in self._given and memory not in self._writable:
                    raise refusal(
                        "it writes into a tensor that outlives the call", "a buffer of a module(...), or a new tensor"
                    )

    def _nodes_written(self, func: Any, args: Any, kwargs: Any) -> Iterator[fx.Node]:
        """The nodes of the tensors that an operation writes into; what it only reads (a mask, say) stays as it is."""
        for i, argument in enumerate(func._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                target = args[i] if i < len(args) else kwargs.get(argument.name)
                for tensor in target if isinstance(target, (tuple, list)) else (target,):
                    if isinstance(tensor, Tensor):
                        yield self._node(tensor)

    def _doubt(self, info: Tensor) -> None:
        """What a decomposition gave is NaN wherever it fails: torch raises an error there, and a graph cannot."""
        source = self._node(info).args[0]
        made = [(entries, i, *entry) for entries in self._made.values() for i, entry in enumerate(entries)]
        for entries, i, tensor, node in made:
            if node.target is operator.getitem and node.args[0] is source and tensor.is_floating_point():
                failed = (info != 0).reshape(*info.shape, *(1,) * (tensor.dim() - info.dim()))
                with self:
                    checked = self._node(torch.where(failed, math.nan, tensor))
                checked.meta[GEOMETRY] = node.meta[GEOMETRY]
                self._nodes[id(tensor)] = checked
                entries[i] = (tensor, checked)

    def _without_masks(self, indices: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Masks that stay as they are, as the numbers that they select."""
        found: list[Tensor | None] = []
        for index in indices:
            if index is None or index.dtype not in (torch.bool, torch.uint8):
                found.append(index)
                continue
            node = self._node(index)
            if node in self._moving:
                raise refusal("the size of what a mask selects depends on its values", "torch.where, or a mask")
            self._note_read([node])
            found += index.nonzero().unbind(1)
        return found

    def _note_read(self, nodes: Sequence[fx.Node]) -> None:
        """Python, or a shape, depends on the values of these: that is, on the constants that they come from."""
        seen, left = set(nodes), list(nodes)
        while left:
            node = left.pop()
            if node in self._lifted:
                constant = self.constants[self._lifted.index(node)]
                self.read[id(constant)] = constant
            left += [n for n in node.all_input_nodes if n not in seen]
            seen.update(node.all_input_nodes)

    def _know(self, tensor: Tensor, node: fx.Node) -> fx.Node:
        self._alive.append(tensor)  # or another might be given its id
        node.meta.setdefault(GEOMETRY, _geometry(tensor))
        return self._nodes.setdefault(id(tensor), node)

    def _make(self, tensor: Tensor, node: fx.Node) -> fx.Node:
        memory = _memory_of(tensor)
        if memory not in self._given:
            self._made.setdefault(memory, []).append((tensor, node))
        return self._know(tensor, node)

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
                    return self._know(tensor, node)
            raise refusal("a result would be frozen: it comes back some way that a recording does not see")
        if tensor.layout is not torch.strided or tensor.is_neg() or tensor.is_conj():
            raise refusal("a library reads plain memory, and this tensor is sparse, or negated lazily", "a dense copy")
        node = self.graph.placeholder(f"constant_{len(self.constants)}")
        self.constants.append(tensor)
        self._given.add(_memory_of(tensor))
        self._lifted.append(node)
        return self._know(tensor, node)

    def _written(self, value: Any, given: list[fx.Node]) -> Any:
        if isinstance(value, Tensor):
            node = self._node(value)
            given.append(node)
            return node
        if isinstance(value, (tuple, list)):
            return type(value)([self._written(v, given) for v in value])
        return value


def _memory_of(tensor: Tensor) -> int:
    """Where its storage begins; for a tensor without memory a number of its own."""
    with torch._C.DisableTorchFunction():
        if tensor.layout is not torch.strided or not tensor.numel():
            return -id(tensor)
        return tensor.untyped_storage().data_ptr()


def _geometry(tensor: Tensor) -> Geometry:
    with torch._C.DisableTorchFunction():
        kind, shape = tensor.dtype, tuple(tensor.shape)
        if tensor.layout is not torch.strided:
            return Geometry(_memory_of(tensor), 0, shape, (), kind)
        return Geometry(_memory_of(tensor), int(tensor.storage_offset()), shape, tensor.stride(), kind)


class _Recording(TorchFunctionMode):
    """Writes what torch itself would turn into a Python number as an operation on tensors; refuses the rest."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _READS and any(isinstance(v, Tensor) for a in args[:2] for v in pytree.tree_leaves(a) if a is not v):
            raise refusal(f"{func.__name__} of a list takes the values of the tensors in it", "torch.stack")
        if func is Tensor.__getitem__:
            return indexed(args[0], args[1])
        if func is Tensor.__setitem__:
            return write(*args)
        if func is torch.nn.functional.one_hot:
            return one_hot(*args, **(kwargs or {}))
        if func in _LEAVES:
            raise refusal(f"{func.__name__} takes a tensor's value out of torch")
        return func(*args, **(kwargs or {}))


@contextmanager
def _unvalidated() -> Iterator[None]:
    """Distributions of torch itself do not look at values unless they were told to one by one."""
    with _VALIDATION:  # the setting is the process's: one thread at a time
        before = td.Distribution._validate_args
        td.Distribution.set_default_validate_args(False)
        try:
            yield
        finally:
            td.Distribution.set_default_validate_args(before)


_LEAVES = frozenset(
    {
        Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.__dlpack__, Tensor.__deepcopy__, Tensor.data_ptr,
        Tensor.untyped_storage,
    }
)  # fmt: skip

_READS = frozenset({torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor})


def _is_validation() -> bool:
    """Whether one of torch's families looks at its arguments, unasked, only to raise an error."""
    frame = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename.startswith(OURS):
        if frame.f_code.co_filename in _LOOKS:
            return frame.f_code.co_name == "__init__"
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _changes_something(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return node.op in ("placeholder", "output") or (schema is not None and schema.is_mutable)
