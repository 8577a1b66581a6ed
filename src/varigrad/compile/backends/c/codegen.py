"""Code generation: writes a graph as a C program; operations become loops, and views become addresses.

The program calls torch back for operations that the tables lack (convolutions, matrix decompositions, sorting).
`Unsupported` is raised for graphs that cannot be written at all: those with tensors of a type that C does not have.
"""

from __future__ import annotations

import inspect
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import fx

from varigrad._torch_internals import OpOverload, pytree
from varigrad.compile.backends.c import ops_indexing, ops_matmul, ops_pointwise, ops_reduction
from varigrad.compile.backends.c.aten_fallbacks import Call, TensorLocation
from varigrad.compile.backends.c.buffers import TYPES, BufferView
from varigrad.compile.backends.c.expressions import common_type, write_elementwise
from varigrad.compile.backends.c.fusion import LoopWriter
from varigrad.compile.backends.c.loop_nests import CHECKS, INPUT
from varigrad.compile.backends.c.output_aliasing import find_output_aliases, result_behind
from varigrad.compile.graph.errors import Unsupported, in_one_line, line_text
from varigrad.compile.graph.memory_layout import (
    GEOMETRY,
    LINE,
    arguments_of,
    geometry_of,
    name_of,
    operand_of,
    schema_of,
    shares,
)

RULES: Mapping[str, Callable[..., None]] = {**ops_reduction.RULES, **ops_matmul.RULES, **ops_indexing.RULES}
"""How operations that look beyond one element are written: `rule(writer, out, *arguments)`."""

GENERATOR = "torch's generator"
"""A name that draws read and write like a memory, so that they stay in their order."""
_PRELUDE = Path(__file__).with_name("prelude.h")
_CONVERTING = ("copy", "fill", "masked_fill", "zero")
"""Operations in place that compute nothing: what they write has the type of the target."""
_IGNORED = ("dtype", "layout", "device", "pin_memory", "memory_format", "generator", "non_blocking", "implicit")


@dataclass(frozen=True)
class Program:
    """A graph as a C program.

    Attributes:
        text: exports `int run(char *own, char *const *inputs, long count, int (*torch)(int))`, which takes `count`
            steps and returns whether it came to an end: there was an index without an entry, or `torch` failed.
        bytes: of memory of its own.
        loops: how many functions it is made of.
        linked: whether it calls BLAS or threads: `use(single, real, team)` says where these are.
        calls: what it calls back for, by number.
    """

    text: str
    bytes: int
    loops: int
    linked: bool
    calls: tuple[Call, ...]


def emit(graph: fx.Graph, products: bool = True, threads: int = 1) -> Program:
    """Write a graph, whose results go into its inputs, as C.

    Args:
        products: whether there is a BLAS for large matrix products.
        threads: how many threads share large loops.

    Raises:
        Unsupported: the graph has an operation, or a type, that is not known here.
    """
    return _Translation(graph, LoopWriter(products, threads)).program()


def work(graph: fx.Graph) -> int:
    """Count the numbers that a graph computes, including those that it adds up in matrix products."""
    total = 0
    for node in graph.nodes:
        found = node.meta.get(GEOMETRY)
        if node.op == "call_function" and found is not None:
            factor = 1
            if name_of(node) in ("mm", "addmm", "bmm", "dot"):
                factor = next(n for n in node.args if GEOMETRY in n.meta).meta[GEOMETRY].shape[-1]
            total += found.numel * factor
    return total


class _Translation:
    """The translation of one graph: the buffer of every node, and the loops that fill the buffers."""

    def __init__(self, graph: fx.Graph, writer: LoopWriter) -> None:
        self.writer = writer
        self.views: dict[fx.Node, Any] = {}
        self.inputs: list[BufferView] = []
        self.output_aliases = find_output_aliases(graph)
        self.concatenated: dict[fx.Node, BufferView] = {}
        self.calls: list[tuple[Any, Any, list[BufferView | None]]] = []
        self.offsets: dict[str, int] = {}
        for node in graph.nodes:
            if node.op == "placeholder":
                self._input(node)
            elif node.op == "call_function":
                self._translate(node)
            elif node.op == "output" and node.all_input_nodes:
                raise Unsupported("results that are not written into an input")

    def _translate(self, node: fx.Node) -> None:
        try:
            try:
                self._operation(node)
            except Unsupported:
                self._call(node)
        except Unsupported:
            raise
        except Exception as error:  # a mistake in a rule, which may have written half of its lines
            raise RuntimeError(f"{node.target} ({line_text(node.meta.get(LINE))}): {in_one_line(error)}") from error

    def program(self) -> Program:
        """Put functions, addresses and the loop over steps together."""
        writer = self.writer
        functions = writer.functions({p.memory for p in self.inputs})
        shared = any(body.shared for body in functions)
        lines = [f"#define PARTS {writer.threads if shared else 1}", _PRELUDE.read_text()]
        self.offsets, total = writer.layout()
        for memory, start in self.offsets.items():
            lines.append(f"#define {memory} (({TYPES[writer.kinds[memory]]} *)(own + {start}))")
        for memory, (whole, offset) in writer.aliases.items():
            lines.append(f"#define {memory} ({whole} + {offset})")
        for i, body in enumerate(functions):
            # What torch is called for, it reads and writes in the same memory: no pointer is the only way there.
            alone = "" if any("torch(" in line for line in body.lines) else "restrict "
            parameters = f"char *{alone}own, char *const *{alone}x, {'int part' if body.shared else 'long *bad'}"
            lines += [f"static __attribute__((noinline)) void f{i}({parameters})", "{"]
            lines += [*self._addresses(body.lines), *body.lines, "}"]
        lines += ["int run(char *own, char *const *x, long count, Torch of_torch)", "{", "long bad = 0;"]
        lines.append("torch = of_torch;")
        lines += ["for (long step = 0; step < count; step++)", "{"]
        for i, body in enumerate(functions):
            lines += [f"share(f{i}, own, x);"] if body.shared else [f"f{i}(own, x, &bad);", "if (bad) return 1;"]
        lines += ["}", "return 0;", "}", ""]
        calls = tuple(self._prepared(*call) for call in self.calls)
        return Program("\n".join(lines), max(total, 64), len(functions), writer.multiplies or shared, calls)

    def _prepared(self, node: fx.Node, given: Any, outs: Sequence[BufferView | None]) -> Call:
        args, kwargs = pytree.tree_map_only(BufferView, self._location, given)
        assert isinstance(node.target, OpOverload)
        return Call(node.target, args, kwargs, tuple(None if o is None else self._location(o) for o in outs))

    def _location(self, view: BufferView) -> TensorLocation:
        """The location of a tensor at run time; the program's memory has been laid out."""
        if view.memory.startswith(INPUT):
            number = int(view.memory.removeprefix(INPUT))
            return TensorLocation(number, view.offset, view.shape, view.stride, view.kind)
        memory, offset = self.writer.aliases.get(view.memory, (view.memory, 0))
        begin = self.offsets[memory] + (offset + view.offset) * view.kind.itemsize
        return TensorLocation(None, begin, view.shape, view.stride, view.kind)

    def _addresses(self, body: Sequence[str]) -> list[str]:
        """Declarations of the inputs of a function: a compiler that reads the table of pointers in every iteration of a
        loop does not vectorise it.
        """
        used = sorted({int(i) for line in body for i in re.findall(rf"\b{INPUT}(\d+)\b", line)})
        kinds = {i: TYPES[self.inputs[i].kind] for i in used}
        return [f"{kind} *const {INPUT}{i} = ({kind} *)x[{i}];" for i, kind in kinds.items()]

    def _input(self, node: fx.Node) -> None:
        g = geometry_of(node)
        if g.kind not in TYPES:
            raise Unsupported(f"tensors of {g.kind}")
        view = BufferView(f"{INPUT}{len(self.inputs)}", 0, g.shape, g.stride, g.kind)
        self.inputs.append(view)
        self.views[node] = view

    def _operation(self, node: fx.Node) -> None:
        if node.target is operator.getitem:
            of = operand_of(node)
            i: Any = node.args[1]
            found = self.views[of]
            self.views[node] = found[i] if isinstance(found, list) else self._view(node, operand_of(of))
            return
        if GEOMETRY not in node.meta:  # several results
            if all(a.alias_info is not None for a in schema_of(node).returns):
                self.views[node] = None  # parts of its operand: `_view` finds them
                return
            if any(isinstance(r.type, torch.ListType) for r in schema_of(node).returns):
                raise Unsupported(f"{node.target}")
            self.views[node] = [None] * len(schema_of(node).returns)
            for user in node.users:
                number: Any = user.args[1]
                self.views[node][number] = self._new(user)
            self._write(node, self.views[node])
            return
        if schema_of(node).is_mutable:
            self._mutation(node)
            return
        first = next(iter(node.all_input_nodes), None)
        if first is not None and GEOMETRY in first.meta and shares(node, first):
            self.views[node] = self._view(node, first)
            return
        if name_of(node) == "index_copy" and self._only_overwrites_its_source(node):
            self.views[node] = self.views[operand_of(node)]  # written when it is copied to where it came from
            return
        if node in self.output_aliases.negated:
            self.views[node] = self._negated_product(node)
            return
        if (
            node.target is torch.ops.aten.neg.default
            and self.output_aliases.negated.get(result_behind(operand_of(node))) is node
        ):
            self.views[node] = self.views[operand_of(node)]
            return
        self.views[node] = self._new(node)
        self._write(node, [self.views[node]])

    def _call(self, node: fx.Node) -> None:
        """Call torch's own operation back."""
        if node.target is operator.getitem:
            raise Unsupported(f"a part of {node.args[0]}")
        operation: Any = node.target
        if not all(isinstance(self.views[n], BufferView) for n in node.all_input_nodes):
            raise Unsupported(f"{node.target}, of what is no tensor")
        given = pytree.tree_map_only(fx.Node, self._views_of, (tuple(node.args), dict(node.kwargs)))
        values = arguments_of(node)
        mutable = [a.name for a in schema_of(node).arguments if a.alias_info is not None and a.alias_info.is_write]
        changed = [n for name in mutable for n in pytree.tree_leaves(values[name]) if isinstance(n, fx.Node)]
        outs = self._result_views(node, changed)
        writes = [p.memory for p in (*outs, *self._views_of(changed)) if p is not None]
        if not writes:
            return  # all that comes of it are views
        reads = [p.memory for p in pytree.tree_leaves(given) if isinstance(p, BufferView)]
        random = [GENERATOR] if torch.Tag.nondeterministic_seeded in operation.tags else []
        line = f"if (torch({len(self.calls)})) {{ *bad = 1; return; }}"
        self.writer.lines([line], [*reads, *random], [*writes, *random, CHECKS])
        self.calls.append((node, given, outs))

    def _result_views(self, node: fx.Node, changed: Sequence[fx.Node]) -> list[BufferView | None]:
        """The buffers for an operation's results: None for those that lie in what it was given."""
        if GEOMETRY in node.meta:
            return [self._result_view(node, node, changed)]
        views: list[BufferView | None] = []
        outs: list[BufferView | None] = []
        for user in node.users:
            number: Any = user.args[1]
            views += [None] * (number + 1 - len(views))
            outs += [None] * (number + 1 - len(outs))
            outs[number] = self._result_view(user, node, changed)
            views[number] = self.views[user]
        self.views[node] = views
        return outs

    def _result_view(self, node: fx.Node, of: fx.Node, changed: Sequence[fx.Node]) -> BufferView | None:
        operation: Any = of.target
        for given in of.all_input_nodes:
            if GEOMETRY in given.meta and shares(node, given):
                if given not in changed and operation.is_view:
                    raise Unsupported(f"{of.target}")
                self.views[node] = self._view(node, given)
                return None
        found = self.views[node] = self._new(node)
        return found

    def _negated_product(self, node: fx.Node) -> BufferView:
        """A matrix product whose only reader is its negative: it is written with the other sign, into the negative."""
        own, home = geometry_of(node), self._new(self.output_aliases.negated[node])
        view = replace(home, shape=own.shape, stride=own.stride)
        a, b = self._views_of(node.args[:2])
        ops_matmul.product(self.writer, view, a, b, sign="-")
        return view

    def _only_overwrites_its_source(self, node: fx.Node) -> bool:
        """Whether a result is only used to overwrite what it was made from."""
        users = list(node.users)
        if len(users) != 1 or users[0].target is not torch.ops.aten.copy_.default:
            return False
        target = users[0].args[0]
        return target is node.args[0] and users[0].args[1] is node

    def _mutation(self, node: fx.Node) -> None:
        name = name_of(node)
        if not name.endswith("_") or name.endswith("__"):
            raise Unsupported(f"{node.target}")
        if name in ("squeeze_", "t_", "transpose_", "unsqueeze_"):
            self.views[node] = self.views[operand_of(node)] = self._view(node, operand_of(node))
            return
        view = self.views[operand_of(node)]
        self.views[node] = view
        source = node.args[1] if len(node.args) > 1 else None
        if (
            name == "copy_"
            and isinstance(source, fx.Node)
            and name_of(source) == "index_copy"
            and self._only_overwrites_its_source(source)
        ):
            self._write(source, [view])
            return
        self._check_type(name.removesuffix("_"), view, node)
        self._write(node, [view], name[:-1])

    def _check_type(self, name: str, view: BufferView, node: fx.Node) -> None:
        """Refuse to compute in the type of a target that torch converts results to: it computes in a wider one."""
        if name in RULES or name in ops_pointwise.COMPARED or name in _CONVERTING:
            return
        wide = common_type([v for v in self._views_of(list(arguments_of(node).values())) if isinstance(v, BufferView)])
        if wide != view.kind:
            raise Unsupported(f"{node.target}: {wide} written as {view.kind}")

    def _new(self, node: fx.Node) -> BufferView:
        if node in self.concatenated:
            return self.concatenated[node]
        g = geometry_of(node)
        if node in self.output_aliases.slices:
            whole, offset = self.output_aliases.slices[node]
            if whole not in self.concatenated:
                self.concatenated[whole] = self._new(whole)
            return self.writer.aliased_buffer(self.concatenated[whole], offset, g.shape, g.stride)
        return self.writer.buffer(g.shape, g.stride, g.kind)

    def _view(self, node: fx.Node, of: Any) -> BufferView:
        own, whole, view = geometry_of(node), geometry_of(of), self.views[of]
        if own.kind != whole.kind:
            raise Unsupported("one type read as another")
        return BufferView(view.memory, view.offset + own.offset - whole.offset, own.shape, own.stride, own.kind)

    def _write(self, node: fx.Node, out: Sequence[BufferView | None], name: str = "") -> None:
        name = name or name_of(node)
        if all(o is None or not o.numel for o in out):
            return
        values = arguments_of(node)
        views = {k: self._views_of(v) for k, v in values.items()}
        rule = RULES.get(name)
        if rule is not None:
            given = [v for k, v in views.items() if k not in _IGNORED]
            try:
                inspect.signature(rule).bind(self.writer, out, *given)
            except TypeError:
                raise Unsupported(f"{node.target}") from None
            rule(self.writer, out, *given)
            return
        if len(out) != 1 or out[0] is None:
            raise Unsupported(f"{node.target}")
        write_elementwise(self.writer, str(node.target), name, out[0], views)

    def _views_of(self, value: Any) -> Any:
        if isinstance(value, fx.Node):
            return self.views[value]
        if isinstance(value, (list, tuple)):
            return [self._views_of(v) for v in value]
        return value
