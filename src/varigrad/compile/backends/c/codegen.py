"""A recorded graph as a C program: each operation in turn becomes loops, views become addresses.

What is not in the tables (convolutions, decompositions of matrices, sorting) is torch's own operation, called back.
`Unsupported` says what cannot be written at all: tensors of a type that C does not have.
"""

from __future__ import annotations

import inspect
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from varigrad.compile.backends.c import ops_indexing, ops_matmul, ops_pointwise, ops_reduction
from varigrad.compile.backends.c.aten_fallbacks import Call, Spot
from varigrad.compile.backends.c.buffers import TYPES, Place
from varigrad.compile.backends.c.fusion import Writer
from varigrad.compile.backends.c.loop_nests import CHECKS, INPUT, Loop
from varigrad.compile.backends.c.output_aliasing import homes, made
from varigrad.compile.graph.errors import Unsupported, said_by, told
from varigrad.compile.graph.geometry import (
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
"""A memory, as it were, that draws read and write: they stay in their order."""
_PRELUDE = Path(__file__).with_name("prelude.h")
_IGNORED = ("dtype", "layout", "device", "pin_memory", "memory_format", "generator", "non_blocking", "implicit")


@dataclass(frozen=True)
class Program:
    """A graph in C.

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


def written(graph: fx.Graph, products: bool = True, parts: int = 1) -> Program:
    """Write a graph, whose results go into its inputs, as C.

    Args:
        products: whether there is a BLAS for large ones.
        parts: in how many parts large loops are shared out among threads.

    Raises:
        Unsupported: it has an operation, or a type, that is not known here.
    """
    return _Translation(graph, Writer(products, parts)).program()


def work(graph: fx.Graph) -> int:
    """How many numbers a graph computes, with those that it adds up in products."""
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
    def __init__(self, graph: fx.Graph, writer: Writer) -> None:
        self.writer = writer
        self.places: dict[fx.Node, Any] = {}
        self.inputs: list[Place] = []
        self.homes = homes(graph)
        self.wholes: dict[fx.Node, Place] = {}
        self.calls: list[tuple[Any, Any, list[Place | None]]] = []
        self.at: dict[str, int] = {}
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
        except Exception as error:  # a mistake in a rule: half of it may be written, so none of the program will do
            raise RuntimeError(f"{node.target} ({told(node.meta.get(LINE))}): {said_by(error)}") from error

    def program(self) -> Program:
        writer = self.writer
        functions = writer.functions({p.memory for p in self.inputs})
        shared = any(body.shared for body in functions)
        lines = [f"#define PARTS {writer.parts if shared else 1}", _PRELUDE.read_text()]
        self.at, total = writer.layout()
        for memory, start in self.at.items():
            lines.append(f"#define {memory} (({TYPES[writer.kinds[memory]]} *)(own + {start}))")
        for memory, (whole, offset) in writer.inside.items():
            lines.append(f"#define {memory} ({whole} + {offset})")
        for i, body in enumerate(functions):
            parameters = f"char *restrict own, char *const *restrict x, {'int part' if body.shared else 'long *bad'}"
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

    def _prepared(self, node: fx.Node, given: Any, outs: Sequence[Place | None]) -> Call:
        args, kwargs = pytree.tree_map_only(Place, self._spot, given)
        return Call(node.target, args, kwargs, tuple(None if o is None else self._spot(o) for o in outs))

    def _spot(self, place: Place) -> Spot:
        """Where it will be; the program's memory has been laid out."""
        if place.memory.startswith(INPUT):
            number = int(place.memory.removeprefix(INPUT))
            return Spot(number, place.offset, place.shape, place.stride, place.kind)
        memory, offset = self.writer.inside.get(place.memory, (place.memory, 0))
        begin = self.at[memory] + (offset + place.offset) * place.kind.itemsize
        return Spot(None, begin, place.shape, place.stride, place.kind)

    def _addresses(self, body: Sequence[str]) -> list[str]:
        """Where the inputs of a function lie: compilers that look again at every turn gather numbers one by one."""
        used = sorted({int(i) for line in body for i in re.findall(rf"\b{INPUT}(\d+)\b", line)})
        kinds = {i: TYPES[self.inputs[i].kind] for i in used}
        return [f"{kind} *const {INPUT}{i} = ({kind} *)x[{i}];" for i, kind in kinds.items()]

    def _input(self, node: fx.Node) -> None:
        g = geometry_of(node)
        if g.kind not in TYPES:
            raise Unsupported(f"tensors of {g.kind}")
        place = Place(f"{INPUT}{len(self.inputs)}", 0, g.shape, g.stride, g.kind)
        self.inputs.append(place)
        self.places[node] = place

    def _operation(self, node: fx.Node) -> None:
        if node.target is operator.getitem:
            of = operand_of(node)
            i: Any = node.args[1]
            found = self.places[of]
            self.places[node] = found[i] if isinstance(found, list) else self._view(node, operand_of(of))
            return
        if GEOMETRY not in node.meta:  # several results
            if all(a.alias_info is not None for a in schema_of(node).returns):
                self.places[node] = None  # parts of its operand: `_view` finds them
                return
            if any(isinstance(r.type, torch.ListType) for r in schema_of(node).returns):
                raise Unsupported(f"{node.target}")
            self.places[node] = [None] * len(schema_of(node).returns)
            for user in node.users:
                number: Any = user.args[1]
                self.places[node][number] = self._new(user)
            self._write(node, self.places[node])
            return
        if schema_of(node).is_mutable:
            self._mutation(node)
            return
        first = next(iter(node.all_input_nodes), None)
        if first is not None and GEOMETRY in first.meta and shares(node, first):
            self.places[node] = self._view(node, first)
            return
        if name_of(node) == "index_copy" and self._goes_home(node):
            self.places[node] = self.places[operand_of(node)]  # written when it is copied to where it came from
            return
        if node in self.homes.negated:
            self.places[node] = self._negative(node)
            return
        if node.target is torch.ops.aten.neg.default and self.homes.negated.get(made(operand_of(node))) is node:
            self.places[node] = self.places[operand_of(node)]
            return
        self.places[node] = self._new(node)
        self._write(node, [self.places[node]])

    def _call(self, node: fx.Node) -> None:
        """Torch's own operation."""
        if node.target is operator.getitem:
            raise Unsupported(f"a part of {node.args[0]}")
        operation: Any = node.target
        if not all(isinstance(self.places[n], Place) for n in node.all_input_nodes):
            raise Unsupported(f"{node.target}, of what is no tensor")
        given = pytree.tree_map_only(fx.Node, self._placed, (tuple(node.args), dict(node.kwargs)))
        values = arguments_of(node)
        mutable = [a.name for a in schema_of(node).arguments if a.alias_info is not None and a.alias_info.is_write]
        changed = [n for name in mutable for n in pytree.tree_leaves(values[name]) if isinstance(n, fx.Node)]
        outs = self._results(node, changed)
        writes = [p.memory for p in (*outs, *self._placed(changed)) if p is not None]
        if not writes:
            return  # all that comes of it are views
        reads = [p.memory for p in pytree.tree_leaves(given) if isinstance(p, Place)]
        random = [GENERATOR] if torch.Tag.nondeterministic_seeded in operation.tags else []
        line = f"if (torch({len(self.calls)})) {{ *bad = 1; return; }}"
        self.writer.lines([line], [*reads, *random], [*writes, *random, CHECKS])
        self.calls.append((node, given, outs))

    def _results(self, node: fx.Node, changed: Sequence[fx.Node]) -> list[Place | None]:
        """Where an operation's results go: None for those that lie in what it was given."""
        if GEOMETRY in node.meta:
            return [self._result(node, node, changed)]
        places: list[Place | None] = []
        outs: list[Place | None] = []
        for user in node.users:
            number: Any = user.args[1]
            places += [None] * (number + 1 - len(places))
            outs += [None] * (number + 1 - len(outs))
            outs[number] = self._result(user, node, changed)
            places[number] = self.places[user]
        self.places[node] = places
        return outs

    def _result(self, node: fx.Node, of: fx.Node, changed: Sequence[fx.Node]) -> Place | None:
        operation: Any = of.target
        for given in of.all_input_nodes:
            if GEOMETRY in given.meta and shares(node, given):
                if given not in changed and operation.is_view:
                    raise Unsupported(f"{of.target}")
                self.places[node] = self._view(node, given)
                return None
        found = self.places[node] = self._new(node)
        return found

    def _negative(self, node: fx.Node) -> Place:
        """A product that is written where its negative has its place."""
        own, home = geometry_of(node), self._new(self.homes.negated[node])
        place = replace(home, shape=own.shape, stride=own.stride)
        a, b = self._placed(node.args[:2])
        ops_matmul.product(self.writer, place, a, b, sign="-")
        return place

    def _goes_home(self, node: fx.Node) -> bool:
        """Whether all that becomes of a result is that it overwrites what it was made from."""
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
            self.places[node] = self.places[operand_of(node)] = self._view(node, operand_of(node))
            return
        place = self.places[operand_of(node)]
        self.places[node] = place
        source = node.args[1] if len(node.args) > 1 else None
        if (
            name == "copy_"
            and isinstance(source, fx.Node)
            and name_of(source) == "index_copy"
            and self._goes_home(source)
        ):
            self._write(source, [place])
            return
        self._write(node, [place], name[:-1])

    def _new(self, node: fx.Node) -> Place:
        if node in self.wholes:
            return self.wholes[node]
        g = geometry_of(node)
        if node in self.homes.parts:
            whole, offset = self.homes.parts[node]
            if whole not in self.wholes:
                self.wholes[whole] = self._new(whole)
            return self.writer.within(self.wholes[whole], offset, g.shape, g.stride)
        return self.writer.buffer(g.shape, g.stride, g.kind)

    def _view(self, node: fx.Node, of: Any) -> Place:
        own, whole, place = geometry_of(node), geometry_of(of), self.places[of]
        if own.kind != whole.kind:
            raise Unsupported("one type read as another")
        return Place(place.memory, place.offset + own.offset - whole.offset, own.shape, own.stride, own.kind)

    def _write(self, node: fx.Node, out: Sequence[Place | None], name: str = "") -> None:
        name = name or name_of(node)
        if all(o is None or not o.numel for o in out):
            return
        values = arguments_of(node)
        places = {k: self._placed(v) for k, v in values.items()}
        rule = RULES.get(name)
        if rule is not None:
            given = [v for k, v in places.items() if k not in _IGNORED]
            try:
                inspect.signature(rule).bind(self.writer, out, *given)
            except TypeError:
                raise Unsupported(f"{node.target}") from None
            rule(self.writer, out, *given)
            return
        if len(out) != 1 or out[0] is None:
            raise Unsupported(f"{node.target}")
        self._elementwise(node, name, out[0], places)

    def _placed(self, value: Any) -> Any:
        if isinstance(value, fx.Node):
            return self.places[value]
        if isinstance(value, (list, tuple)):
            return [self._placed(v) for v in value]
        return value

    def _elementwise(self, node: fx.Node, name: str, out: Place, values: dict[str, Any]) -> None:
        operands = list(values.values())
        kind = out.kind
        text = ops_pointwise.special(name, values, out.kind)
        if text is None and not out.kind.is_floating_point:
            text = ops_pointwise.INTEGER.get(name) or ops_pointwise.BITS.get(name)
        if text is None and name in ops_pointwise.COMPARED:
            text, kind = ops_pointwise.COMPARED[name], _common(operands)
        text = text or ops_pointwise.SAME.get(name)
        if text is None or ("@" in text and not kind.is_floating_point):
            raise Unsupported(f"{node.target} of {kind}")
        used = [i for i, _ in enumerate(operands) if f"{{{i}}}" in text or f"{{{i}:" in text]
        tensors = [operands[i] for i in used if isinstance(operands[i], Place)]
        template = text.replace("@", "f" if kind == torch.float32 else "")

        def express(loop: Loop, names: list[str]) -> str:
            left = iter(names)
            words: list[Any] = [None] * len(operands)
            for i in used:
                own = operands[i]
                words[i] = _Variable(next(left), own.kind, kind) if isinstance(own, Place) else _literal(own, kind)
            return template.format(*words)

        self.writer.write(out, tensors, express)


@dataclass(frozen=True)
class _Variable:
    """The name of a number, converted to the type that is computed in; `{0:raw}` is the name alone."""

    name: str
    kind: torch.dtype
    wanted: torch.dtype

    def __format__(self, how: str) -> str:
        if how == "raw" or self.kind == self.wanted:
            return self.name
        return f"({self.name} != 0)" if self.wanted == torch.bool else f"(({TYPES[self.wanted]}){self.name})"


def _literal(value: Any, kind: torch.dtype) -> str:
    if not isinstance(value, (bool, int, float)):
        raise Unsupported(f"an argument {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        text = "NAN" if math.isnan(value) else "INFINITY" if value > 0 else "-INFINITY"
    else:
        text = repr(float(value)) if kind.is_floating_point else repr(int(value))
    return f"(({TYPES[kind]}){text})"


def _common(operands: Sequence[Any]) -> torch.dtype:
    """The type that operands are compared in: tensors with dimensions count before those without, then numbers."""
    found = torch.bool
    for some in (
        [torch.float32 if isinstance(o, float) else torch.int64 for o in operands if isinstance(o, (int, float))],
        [o.kind for o in operands if isinstance(o, Place) and not o.shape],
        [o.kind for o in operands if isinstance(o, Place) and o.shape],
    ):
        own = torch.bool
        for kind in some:
            own = torch.promote_types(own, kind)
        if some:
            found = own if _rank(own) >= _rank(found) else found
    return found


def _rank(kind: torch.dtype) -> int:
    return 2 if kind.is_floating_point else int(kind != torch.bool)
