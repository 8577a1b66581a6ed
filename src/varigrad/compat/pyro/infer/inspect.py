"""Dependencies between a model's variables: `get_dependencies`, `get_model_relations` and `render_model`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import distributions as td

from varigrad.compat.pyro.primitives import get_param_store
from varigrad.distributions.delta import Delta
from varigrad.distributions.finite_support import inner_of
from varigrad.errors import VarigradError
from varigrad.language.messages import Factor, Forward, Message, Param, Program, Record, Sample, evolve
from varigrad.language.runtime import run
from varigrad.terms.dependency_tracker import Statement, Token, Tracker
from varigrad.terms.provenance import NOTHING, Provenance, get_provenance, track_provenance, untracked

Dependencies = dict[str, dict[str, set[str]]]


@dataclass(frozen=True)
class Node:
    """A site of a model.

    Attributes:
        family: the name of its distribution's class.
        given: whether its value is not drawn (observed, a factor, deterministic).
        plates: names, outermost first.
        parents: the sites, and the parameters, that it depends on directly.
    """

    name: str
    family: str
    given: bool
    plates: tuple[str, ...]
    parents: frozenset[str]
    parameters: frozenset[str]


class _Watch:
    """A handler that tracks each choice from its draw to the next choices that depend on it.

    A value that leaves torch (a number, a branch) counts as read by everything after it.
    """

    def __init__(self, deterministic: bool) -> None:
        self.deterministic = deterministic
        self.tracker = Tracker()
        self.nodes: list[Node] = []
        self.constraints: dict[str, str] = {}

    def __call__(self, message: Message, forward: Forward) -> Message:
        if isinstance(message, Sample):
            return self._sample(message, forward)
        if isinstance(message, Factor):
            statement = self.tracker.examine(message)
            self._note(message, statement.upstream, type(message).__name__, given=True)
        elif isinstance(message, Param):
            answer = forward(message)
            assert isinstance(answer, Param) and answer.value is not None
            self.constraints[message.name] = str(get_param_store()._constraints.get(message.name, message.constraint))
            return evolve(answer, value=self._mark(answer.value, _Parameter(message.name)))
        elif isinstance(message, Record) and self.deterministic and isinstance(message.value, Tensor):
            self._note(message, get_provenance(message.value), "Deterministic", given=True)
            return forward(evolve(message, value=self._mark(untracked(message.value), message.name)))
        return forward(message)

    def _sample(self, message: Sample, forward: Forward) -> Message:
        statement = self.tracker.examine(message)
        plain = statement.message
        assert isinstance(plain, Sample)
        answer = forward(plain)
        assert isinstance(answer, Sample) and answer.value is not None
        if isinstance(inner_of(message.distribution)[0], Delta):
            return evolve(answer, value=self.tracker.mark(answer.value, statement, False))
        mask = answer.mask
        hidden = mask is not None and not bool(mask.any())
        family = type(message.distribution)
        while issubclass(family, td.Independent):
            message = evolve(message, distribution=message.distribution.base_dist)  # type: ignore[attr-defined]
            family = type(message.distribution)
        # A density that is masked as a whole says nothing about what is upstream.
        self._note(message, NOTHING if hidden else statement.given, family.__name__, message.observed)
        if message.observed:
            return answer
        return evolve(answer, value=self.tracker.mark(answer.value, Statement(plain, NOTHING), True))

    def _mark(self, value: Tensor, name: str) -> Tensor:
        self.tracker.plates.setdefault(name, NOTHING)
        return track_provenance(value, frozenset({Token(name)}), self.tracker.escapes)

    def _note(self, message: Sample | Factor | Record, upstream: Provenance, family: str, given: bool) -> None:
        parents = {t.site for t in upstream}
        parameters = frozenset(str(p) for p in parents if isinstance(p, _Parameter))
        own = frozenset(p for p in parents if not isinstance(p, _Parameter))
        plates = tuple(p.name for p in message.plates if p.dim is not None)
        self.nodes.append(Node(message.name, family, given, plates, own, parameters))


class _Parameter(str):
    """The name of a parameter; its type distinguishes it from the name of a site."""

    __slots__ = ()


def nodes_of(
    model: Program, args: tuple[object, ...], kwargs: Mapping[str, object], deterministic: bool = False
) -> tuple[list[Node], dict[str, str]]:
    """The sites of one run of a model, in its order, and the constraints of its parameters."""
    watch = _Watch(deterministic)
    try:
        with torch.no_grad():
            run(model, (watch,), args, dict(kwargs))
    finally:
        watch.tracker.finish()
    return watch.nodes, watch.constraints


def get_dependencies(
    model: Program,
    model_args: tuple[object, ...] | None = None,
    model_kwargs: dict[str, object] | None = None,
    include_deterministic: bool = False,
) -> dict[str, Dependencies]:
    """Which variables depend on which, in the model and in its posterior.

    A variable may depend on elements of another in the same plate other than its own: then the plate is named.
    Deterministic sites and point masses are looked through.

    Returns:
        `{"prior_dependencies": d, "posterior_dependencies": d}`, each `d` a dictionary `site -> {site: plates}`: in the
        prior, of every site to those before it that it depends on directly; in the posterior, of every latent one to
        those after it that it depends on (children, and the children's other parents).
    """
    nodes, _ = nodes_of(model, model_args or (), model_kwargs or {}, include_deterministic)
    prior: Dependencies = {n.name: {n.name: set(), **{p: set() for p in sorted(n.parents)}} for n in nodes}
    place = {n.name: i for i, n in enumerate(nodes)}
    plates = {n.name: set(n.plates) for n in nodes}
    posterior: Dependencies = {}
    for node in nodes:
        if node.given:
            continue
        found = posterior[node.name] = {node.name: set()}
        for child in nodes:
            if node.name not in child.parents:
                continue
            found.setdefault(child.name, set())
            for other in child.parents:
                if place[other] >= place[node.name]:
                    mixed = (plates[node.name] & plates[other]) - plates[child.name]
                    found.setdefault(other, set()).update(mixed)
    return {"prior_dependencies": prior, "posterior_dependencies": posterior}


def get_model_relations(
    model: Program,
    model_args: tuple[object, ...] | None = None,
    model_kwargs: dict[str, object] | None = None,
    include_deterministic: bool = False,
) -> dict[str, Any]:
    """What a picture of a model needs: sites, what they depend on, distributions, plates, observations."""
    nodes, constraints = nodes_of(model, model_args or (), model_kwargs or {}, include_deterministic)
    plates: dict[str, list[str]] = {}
    for node in nodes:
        for plate in node.plates:
            plates.setdefault(plate, []).append(node.name)
    order = [n.name for n in nodes]
    return {
        "sample_sample": {n.name: [name for name in order if name in n.parents] for n in nodes},
        "sample_param": {n.name: [name for name in constraints if name in n.parameters] for n in nodes},
        "sample_dist": {n.name: n.family for n in nodes},
        "param_constraint": constraints,
        "plate_sample": plates,
        "observed": [n.name for n in nodes if n.given],
    }


def generate_graph_specification(model_relations: dict[str, Any], render_params: bool = False) -> dict[str, Any]:
    """The picture as data: nodes, edges, and the plates that nodes are in.

    A plate whose sites are all in another is drawn inside it; of two that overlap, the second is drawn once more for
    what is in both.
    """
    relations = model_relations
    plates_of: dict[str, tuple[str, ...]] = dict.fromkeys(relations["sample_dist"], ())
    nested = sorted(relations["plate_sample"].items(), key=lambda entry: -len(entry[1]))
    for plate, sites in nested:
        for site in sites:
            plates_of[site] = (*plates_of[site], plate)
    groups: dict[str | None, list[str]] = {}
    parents: dict[str, str | None] = {}
    place: dict[tuple[str, ...], str] = {}
    for site, path in plates_of.items():
        for depth in range(1, len(path) + 1):
            if path[:depth] not in place:
                name = path[depth - 1]
                while name in parents:
                    name += "_"
                place[path[:depth]] = name
                parents[name] = place[path[: depth - 1]] if depth > 1 else None
        groups.setdefault(place[path] if path else None, []).append(site)
    data: dict[str, dict[str, Any]] = {
        name: {"is_observed": name in relations["observed"], "distribution": family}
        for name, family in relations["sample_dist"].items()
    }
    edges = [(above, site) for site, uppers in relations["sample_sample"].items() for above in uppers]
    if render_params:
        for name, constraint in relations["param_constraint"].items():
            data[name] = {"is_observed": False, "constraint": constraint, "distribution": None}
            groups.setdefault(None, []).append(name)
        edges += [(name, site) for site, names in relations["sample_param"].items() for name in names]
    return {
        "plate_groups": groups,
        "plate_data": {name: {"parent": parent} for name, parent in parents.items()},
        "node_data": data,
        "edge_list": edges,
    }


def render_graph(graph_specification: dict[str, Any], render_distributions: bool = False) -> Any:
    """A `graphviz.Digraph` of what `generate_graph_specification` returns.

    Raises:
        ImportError: the package graphviz is not installed.
    """
    try:
        import graphviz
    except ImportError as error:
        raise ImportError(
            "a picture of a model needs the package graphviz (and, to draw it, its program `dot`). "
            "Try: pip install graphviz; the graph as data is generate_graph_specification(get_model_relations(model))"
        ) from error
    spec = graph_specification

    def draw(plate: str | None) -> Any:
        graph = graphviz.Digraph() if plate is None else graphviz.Digraph(name=f"cluster_{plate}")
        if plate is not None:
            graph.attr(label=plate.rstrip("_"), labeljust="r", labelloc="b")
        for name in spec["plate_groups"].get(plate, ()):
            data = spec["node_data"][name]
            fixed = data["distribution"] is None
            fill = "gray" if data["is_observed"] else "white"
            shape = "plain" if fixed else "rectangle" if data["distribution"] == "Factor" else "ellipse"
            graph.node(name, label=name, shape=shape, style="" if fixed else "filled", fillcolor=fill)
        for inner, data in spec["plate_data"].items():
            if data["parent"] == plate:
                graph.subgraph(draw(inner))
        return graph

    whole = draw(None)
    for above, below in spec["edge_list"]:
        whole.edge(above, below)
    if render_distributions:
        lines = [
            f"{name} ~ {data['distribution']}" if data["distribution"] else f"{name} : {data['constraint']}"
            for name, data in spec["node_data"].items()
        ]
        whole.node("_distributions", label="\\l".join(lines) + "\\l", shape="plaintext")
    return whole


def render_model(
    model: Program,
    model_args: tuple[object, ...] | Sequence[tuple[object, ...]] | None = None,
    model_kwargs: dict[str, object] | Sequence[dict[str, object]] | None = None,
    filename: str | Path | None = None,
    render_distributions: bool = False,
    render_params: bool = False,
    render_deterministic: bool = False,
) -> Any:
    """A picture of a model, a `graphviz.Digraph`.

    Args:
        filename: write it there, as the kind of picture that the suffix says.
        render_distributions, render_params, render_deterministic: what to show besides the random choices.

    Raises:
        ImportError: the package graphviz is not installed.
        VarigradError: there is no suffix, or several lists of arguments are given.
    """
    if isinstance(model_args, list) or isinstance(model_kwargs, (list, Sequence)):
        raise VarigradError("several lists of arguments in one picture are not there", try_="render_model for each")
    assert model_args is None or isinstance(model_args, tuple)
    relations = get_model_relations(model, model_args, model_kwargs, render_deterministic)
    graph = render_graph(generate_graph_specification(relations, render_params), render_distributions)
    if filename is not None:
        path = Path(filename)
        if not path.suffix:
            raise VarigradError(f"filename {str(filename)!r} has no suffix", try_="'model.pdf'")
        graph.render(path.with_suffix(""), format=path.suffix[1:], view=False, cleanup=True)
    return graph
