"""A recorded graph as a C program: each operation in turn becomes loops, views become addresses.

Programs are for small tensors, where a step is all overhead: they are there in half a second. Where a graph has an
operation that is not in the tables, `Unsupported` says which.
"""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx

from varigrad.capture.c import elementwise, entries, products, reductions
from varigrad.capture.c.loops import INPUT, Loop, Writer
from varigrad.capture.c.places import TYPES, Place, Unsupported

GEOMETRY = "geometry"
"""The key under which a node's `meta` says how its tensor lay in memory when the graph was recorded."""

RULES: Mapping[str, Callable[..., None]] = {**reductions.RULES, **products.RULES, **entries.RULES}
"""How operations that look beyond one element are written: `rule(writer, out, *arguments)`."""

_PRELUDE = Path(__file__).with_name("prelude.h")
_IGNORED = ("dtype", "layout", "device", "pin_memory", "memory_format", "generator", "non_blocking", "implicit")


@dataclass(frozen=True)
class Geometry:
    """How a tensor lies: in which storage, from where, and in which steps (in elements)."""

    storage: int
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    kind: torch.dtype


@dataclass(frozen=True)
class Program:
    """A graph in C.

    Attributes:
        text: exports `int run(char *own, char *const *inputs, long count)`, which takes `count` steps and returns
            whether there was an index without an entry.
        bytes: of memory of its own.
        loops: how many functions it is made of.
        products: whether it calls BLAS: `use(single, real)` says where that is.
    """

    text: str
    bytes: int
    loops: int
    products: bool


def written(graph: fx.Graph, products: bool = True) -> Program:
    """Write a graph, whose results go into its inputs, as C.

    Args:
        products: whether there is a BLAS for large ones.

    Raises:
        Unsupported: it has an operation, or a type, that is not known here.
    """
    return _Translation(graph, products).program()


def work(graph: fx.Graph) -> int:
    """How many numbers a graph computes, with those that it adds up in products."""
    total = 0
    for node in graph.nodes:
        found = node.meta.get(GEOMETRY)
        if node.op == "call_function" and found is not None:
            factor = 1
            if _name(node) in ("mm", "addmm", "bmm", "dot"):
                factor = next(n for n in node.args if GEOMETRY in n.meta).meta[GEOMETRY].shape[-1]
            total += math.prod(found.shape) * factor
    return total


class _Translation:
    def __init__(self, graph: fx.Graph, products: bool) -> None:
        self.writer = Writer(products)
        self.places: dict[fx.Node, Any] = {}
        self.inputs: list[Place] = []
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
        lines = [_PRELUDE.read_text()]
        lines += [f"#define {INPUT}{i} (({TYPES[p.kind]} *)x[{i}])" for i, p in enumerate(self.inputs)]
        total = 0
        for memory, size in writer.sizes.items():
            if memory in writer.loaded:
                lines.append(f"#define {memory} (({TYPES[writer.kinds[memory]]} *)(own + {total}))")
                total += -(-size // 64) * 64
        parameters = "char *restrict own, char *const *restrict x, long *bad"
        for i, body in enumerate(functions):
            lines += [f"static __attribute__((noinline)) void f{i}({parameters})", "{", *body, "}"]
        lines += ["int run(char *own, char *const *x, long count)", "{", "long bad = 0;"]
        lines += ["for (long step = 0; step < count; step++)", "{"]
        for i in range(len(functions)):
            lines.append(f"f{i}(own, x, &bad);")
            lines.append("if (bad) return 1;")
        lines += ["}", "return 0;", "}", ""]
        return Program("\n".join(lines), max(total, 1), len(functions), writer.multiplies)

    def _input(self, node: fx.Node) -> None:
        g = _geometry(node)
        if g.kind not in TYPES:
            raise Unsupported(f"tensors of {g.kind}")
        place = Place(f"{INPUT}{len(self.inputs)}", 0, g.shape, g.stride, g.kind)
        self.inputs.append(place)
        self.places[node] = place

    def _operation(self, node: fx.Node) -> None:
        if node.target is operator.getitem:
            of = _operand(node)
            i: Any = node.args[1]
            found = self.places[of]
            self.places[node] = found[i] if isinstance(found, list) else self._view(node, _operand(of))
            return
        if GEOMETRY not in node.meta:  # several results
            if all(a.alias_info is not None for a in _schema(node).returns):
                self.places[node] = None  # parts of its operand: `_view` finds them
                return
            self.places[node] = [None] * len(_schema(node).returns)
            for user in node.users:
                number: Any = user.args[1]
                self.places[node][number] = self._new(user)
            self._write(node, self.places[node])
            return
        if _schema(node).is_mutable:
            self._mutation(node)
            return
        first = next(iter(node.all_input_nodes), None)
        if first is not None and GEOMETRY in first.meta and _shares(node, first):
            self.places[node] = self._view(node, first)
            return
        if _name(node) == "index_copy" and self._goes_home(node):
            self.places[node] = self.places[_operand(node)]  # written when it is copied to where it came from
            return
        self.places[node] = self._new(node)
        self._write(node, [self.places[node]])

    def _goes_home(self, node: fx.Node) -> bool:
        """Whether all that becomes of a result is that it overwrites what it was made from."""
        users = list(node.users)
        if len(users) != 1 or users[0].target is not torch.ops.aten.copy_.default:
            return False
        target = users[0].args[0]
        return target is node.args[0] and users[0].args[1] is node

    def _mutation(self, node: fx.Node) -> None:
        name = _name(node)
        if not name.endswith("_") or name.endswith("__"):
            raise Unsupported(f"{node.target}")
        if name in ("squeeze_", "t_", "transpose_", "unsqueeze_"):
            self.places[node] = self.places[_operand(node)] = self._view(node, _operand(node))
            return
        place = self.places[_operand(node)]
        self.places[node] = place
        source = node.args[1] if len(node.args) > 1 else None
        if (
            name == "copy_"
            and isinstance(source, fx.Node)
            and _name(source) == "index_copy"
            and self._goes_home(source)
        ):
            self._write(source, [place])
            return
        self._write(node, [place], name[:-1])

    def _new(self, node: fx.Node) -> Place:
        g = _geometry(node)
        return self.writer.buffer(g.shape, g.stride, g.kind)

    def _view(self, node: fx.Node, of: Any) -> Place:
        own, whole, place = _geometry(node), _geometry(of), self.places[of]
        if own.kind != whole.kind:
            raise Unsupported("one type read as another")
        return Place(place.memory, place.offset + own.offset - whole.offset, own.shape, own.stride, own.kind)

    def _write(self, node: fx.Node, out: Sequence[Place | None], name: str = "") -> None:
        name = name or _name(node)
        if all(o is None or not o.numel for o in out):
            return
        values = _arguments(node)
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


def _schema(node: fx.Node) -> Any:
    found = getattr(node.target, "_schema", None)
    if found is None:
        raise Unsupported(f"{node.target}")
    return found


def _name(node: fx.Node) -> str:
    schema = getattr(node.target, "_schema", None)
    return "" if schema is None else schema.name.removeprefix("aten::")


def _operand(node: fx.Node) -> fx.Node:
    """The first one."""
    found = node.args[0]
    assert isinstance(found, fx.Node)
    return found


def _geometry(node: Any) -> Geometry:
    found = node.meta.get(GEOMETRY)
    if found is None:
        raise Unsupported("a result that is no tensor")
    assert isinstance(found, Geometry)
    return found


def _shares(node: fx.Node, other: fx.Node) -> bool:
    own, base = _geometry(node), _geometry(other)
    return own.storage == base.storage and math.prod(own.shape) > 0


def _arguments(node: fx.Node) -> dict[str, Any]:
    """By the names in the schema, in its order."""
    found = {}
    for i, argument in enumerate(_schema(node).arguments):
        if i < len(node.args):
            found[argument.name] = node.args[i]
        else:
            found[argument.name] = node.kwargs.get(argument.name, argument.default_value)
    return found
