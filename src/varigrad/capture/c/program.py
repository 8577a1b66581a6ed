"""A recorded graph as a C program: each operation in turn becomes loops, views become addresses.

Programs are for small tensors, where a step is all overhead: they are there in half a second. Where a graph has an
operation that is not in the tables, `Unsupported` says which.
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

from varigrad.capture.c import elementwise, entries, products, reductions
from varigrad.capture.c.homes import homes, made
from varigrad.capture.c.loops import INPUT, Loop
from varigrad.capture.c.nodes import GEOMETRY, arguments_of, geometry_of, name_of, operand_of, schema_of, shares
from varigrad.capture.c.places import TYPES, Place, Unsupported
from varigrad.capture.c.writer import Writer

RULES: Mapping[str, Callable[..., None]] = {**reductions.RULES, **products.RULES, **entries.RULES}
"""How operations that look beyond one element are written: `rule(writer, out, *arguments)`."""

_PRELUDE = Path(__file__).with_name("prelude.h")
_IGNORED = ("dtype", "layout", "device", "pin_memory", "memory_format", "generator", "non_blocking", "implicit")


@dataclass(frozen=True)
class Program:
    """A graph in C.

    Attributes:
        text: exports `int run(char *own, char *const *inputs, long count)`, which takes `count` steps and returns
            whether there was an index without an entry.
        bytes: of memory of its own.
        loops: how many functions it is made of.
        calls: whether it calls BLAS or threads: `use(single, real, team)` says where these are.
    """

    text: str
    bytes: int
    loops: int
    calls: bool


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
        for node in graph.nodes:
            if node.op == "placeholder":
                self._input(node)
            elif node.op == "call_function":
                self._operation(node)
            elif node.op == "output" and node.all_input_nodes:
                raise Unsupported("results that are not written into an input")

    def program(self) -> Program:
        writer = self.writer
        functions = writer.functions({p.memory for p in self.inputs})
        shared = any(body.shared for body in functions)
        lines = [f"#define PARTS {writer.parts if shared else 1}", _PRELUDE.read_text()]
        total = 0
        used = writer.loaded | {writer.inside[memory][0] for memory in writer.loaded & writer.inside.keys()}
        for memory, size in writer.sizes.items():
            if memory in writer.inside:
                whole, offset = writer.inside[memory]
                lines.append(f"#define {memory} ({whole} + {offset})")
            elif memory in used:
                lines.append(f"#define {memory} (({TYPES[writer.kinds[memory]]} *)(own + {total}))")
                total += -(-size // 64) * 64
        for i, body in enumerate(functions):
            parameters = f"char *restrict own, char *const *restrict x, {'int part' if body.shared else 'long *bad'}"
            lines += [f"static __attribute__((noinline)) void f{i}({parameters})", "{"]
            lines += [*self._addresses(body.lines), *body.lines, "}"]
        lines += ["int run(char *own, char *const *x, long count)", "{", "long bad = 0;"]
        lines += ["for (long step = 0; step < count; step++)", "{"]
        for i, body in enumerate(functions):
            lines += [f"share(f{i}, own, x);"] if body.shared else [f"f{i}(own, x, &bad);", "if (bad) return 1;"]
        lines += ["}", "return 0;", "}", ""]
        return Program("\n".join(lines), max(total, 1), len(functions), writer.multiplies or shared)

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

    def _negative(self, node: fx.Node) -> Place:
        """A product that is written where its negative has its place."""
        own, home = geometry_of(node), self._new(self.homes.negated[node])
        place = replace(home, shape=own.shape, stride=own.stride)
        a, b = self._placed(node.args[:2])
        products.product(self.writer, place, a, b, sign="-")
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
        assert out[0] is not None
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
        text = elementwise.special(name, values, out.kind)
        if text is None and not out.kind.is_floating_point:
            text = elementwise.INTEGER.get(name) or elementwise.BITS.get(name)
        if text is None and name in elementwise.COMPARED:
            text, kind = elementwise.COMPARED[name], _common(operands)
        text = text or elementwise.SAME.get(name)
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
