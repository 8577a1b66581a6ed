"""`Trace`: the record of a run as a dictionary of nodes, each a dictionary, with log-densities computed on demand."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from varigrad.compat.pyro.distributions.score_parts import ScoreParts
from varigrad.compat.pyro.poutine.messages import Dictionary, _Subsample
from varigrad.compat.pyro.util import warn_if_inf, warn_if_nan
from varigrad.distributions.mixin import filled, masked
from varigrad.errors import ShapeError, SiteNameError

D = TypeVar("D", Tensor, float)
Filter = Callable[[str, Dictionary], bool]


class MultipleSitesError(SiteNameError, RuntimeError):
    """A name is used twice in one run."""


class Trace:
    """The record of one run.

    Attributes:
        nodes: `name -> message`, in program order, with the arguments under "_INPUT" and what was returned under
            "_RETURN"; `compute_log_prob` adds "log_prob", "log_prob_sum" and "unscaled_log_prob".
        graph_type: "flat" for no edges, "dense" for all that plates do not rule out.
    """

    def __init__(self, graph_type: str = "flat") -> None:
        if graph_type not in ("flat", "dense"):
            raise ValueError(f"graph_type must be 'flat' or 'dense', got {graph_type!r}")
        self.graph_type = graph_type
        self.nodes: OrderedDict[str, Dictionary] = OrderedDict()
        self._succ: OrderedDict[str, set[str]] = OrderedDict()
        self._pred: OrderedDict[str, set[str]] = OrderedDict()

    def __contains__(self, name: object) -> bool:
        return name in self.nodes

    def __iter__(self) -> Iterator[str]:
        return iter(self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def edges(self) -> Iterator[tuple[str, str]]:
        """The edges of the trace, as pairs of names."""
        return ((site, after) for site, found in self._succ.items() for after in found)

    def add_node(self, site_name: str, **kwargs: object) -> None:
        """Record a message.

        Raises:
            MultipleSitesError: (a `RuntimeError`) the name is taken, and not by the same parameter.
        """
        known = self.nodes.get(site_name)
        if known is not None and kwargs["type"] != "param":
            if known["type"] != kwargs["type"]:
                raise MultipleSitesError(
                    f"is the name of a {known['type']} and of a {kwargs['type']} site",
                    site=site_name,
                    try_="two names",
                )
            if known["fn"].__class__ is not _Subsample:
                raise MultipleSitesError(
                    f"Multiple {kwargs['type']} sites named {site_name!r}",
                    site=site_name,
                    because="sites are told apart by name\n" + self.format_shapes(),
                    try_=f'names that differ, such as f"{site_name}_{{i}}" in a loop',
                )
        self.nodes[site_name] = kwargs
        self._pred.setdefault(site_name, set())
        self._succ.setdefault(site_name, set())

    def add_edge(self, site1: str, site2: str) -> None:
        """Say that the second depends on the first."""
        for site in (site1, site2):
            if site not in self.nodes:
                self.add_node(site, type="args")
        self._succ[site1].add(site2)
        self._pred[site2].add(site1)

    def remove_node(self, site_name: str) -> None:
        """Forget a site and its edges."""
        self.nodes.pop(site_name)
        for before in self._pred.pop(site_name):
            self._succ[before].remove(site_name)
        for after in self._succ.pop(site_name):
            self._pred[after].remove(site_name)

    def predecessors(self, site_name: str) -> set[str]:
        """What a site depends on."""
        return self._pred[site_name]

    def successors(self, site_name: str) -> set[str]:
        """What depends on a site."""
        return self._succ[site_name]

    def topological_sort(self, reverse: bool = False) -> list[str]:
        """All names, each after what it depends on."""
        order: list[str] = []
        left = {name: set(before) for name, before in self._pred.items()}
        while left:
            ready = next((n for n, before in left.items() if not before & left.keys()), next(iter(left)))
            order.append(ready)
            del left[ready]
        return order[::-1] if reverse else order

    def copy(self) -> Trace:
        """A trace with the same nodes; changes to it leave this one alone."""
        twin = Trace(self.graph_type)
        twin.nodes.update(self.nodes)
        twin._succ.update({n: set(found) for n, found in self._succ.items()})
        twin._pred.update({n: set(found) for n, found in self._pred.items()})
        return twin

    def __copy__(self) -> Trace:
        return self.copy()

    def detach_(self) -> None:
        """Take the values of sample sites off their graphs."""
        for _, site in self._samples():
            if isinstance(site["value"], Tensor):
                site["value"] = site["value"].detach()

    # Densities

    def compute_log_prob(self, site_filter: Filter = lambda name, site: True) -> None:
        """Add each site's log-density, scaled and masked, `[*plates]`, and its sum.

        Raises:
            ShapeError: (a `ValueError`) it cannot be computed; the text has all shapes.
        """
        for name, site in self._samples():
            if "log_prob" in site or not site_filter(name, site):
                continue
            raw = self._density(name, site)
            site["unscaled_log_prob"] = raw
            site["log_prob"] = log_prob = scaled(raw, site["scale"], site["mask"])
            site["log_prob_sum"] = log_prob.sum()
            _warn(name, site)

    def log_prob_sum(self, site_filter: Filter = lambda name, site: True) -> Tensor | float:
        """The sum of all log-densities; differentiable."""
        total: Tensor | float = 0.0
        for name, site in self._samples():
            if site_filter(name, site):
                if "log_prob_sum" not in site:
                    density = scaled(self._density(name, site), site["scale"], site["mask"]).sum()
                    site["log_prob_sum"] = density
                    _warn(name, site)
                total = total + site["log_prob_sum"]
        return total

    def compute_score_parts(self) -> None:
        """Add each site's density as Pyro's estimators take it apart, and its log-density."""
        for name, site in self._samples():
            if "score_parts" in site:
                continue
            raw = self._density(name, site)
            fn = site["fn"]
            if hasattr(fn, "score_parts"):
                parts = fn.score_parts(site["value"])
            else:
                parts = ScoreParts(raw, 0, raw) if fn.has_rsample else ScoreParts(raw, raw, 0)
            scale, mask = site["scale"], site["mask"]
            site["unscaled_log_prob"] = raw
            site["score_parts"] = ScoreParts(
                scaled(parts.log_prob, scale, mask),
                scaled(parts.score_function, 1.0, mask),
                scaled(parts.entropy_term, scale, mask),
            )
            site["log_prob"] = site["score_parts"].log_prob
            site["log_prob_sum"] = site["log_prob"].sum()
            _warn(name, site)

    def pack_tensors(self, plate_to_symbol: object = None) -> None:
        """Add to each site its densities without dimensions of size 1, under "packed"."""
        self.compute_log_prob()
        for _, site in self._samples():
            packed = site.setdefault("packed", {})
            packed["mask"] = site["mask"]
            for key in ("log_prob", "unscaled_log_prob"):
                packed[key] = site[key].squeeze()
            if "score_parts" in site:
                packed["score_parts"] = site["score_parts"]

    def symbolize_dims(self, plate_to_symbol: object = None) -> None:
        """Not needed here: an enumeration lies along one dimension."""

    def _density(self, name: str, site: Dictionary) -> Tensor:
        fn, value = site["fn"], site["value"]
        mask = site["mask"]
        if isinstance(mask, Tensor) and site["is_observed"] and isinstance(fn, torch.distributions.Distribution):
            value = filled(fn, value, mask)
        try:
            log_prob: Tensor = fn.log_prob(value, *site["args"], **site["kwargs"])
            return log_prob
        except (ValueError, RuntimeError, TypeError, IndexError) as error:
            raise ShapeError(
                f"its log-density cannot be computed: {error}\n{self.format_shapes()}", site=name
            ) from error

    # Kinds of sites

    def _samples(self) -> list[tuple[str, Dictionary]]:
        return [(n, s) for n, s in self.nodes.items() if s["type"] == "sample"]

    @property
    def observation_nodes(self) -> list[str]:
        """Names of the observed sites, factors and computed values among them."""
        return [n for n, s in self._samples() if s["is_observed"]]

    @property
    def param_nodes(self) -> list[str]:
        """Names of the parameters."""
        return [n for n, s in self.nodes.items() if s["type"] == "param"]

    @property
    def stochastic_nodes(self) -> list[str]:
        """Names of the latent sites, minibatches of plates among them."""
        return [n for n, s in self._samples() if not s["is_observed"]]

    @property
    def reparameterized_nodes(self) -> list[str]:
        """Those of them whose distributions have `rsample`."""
        return [n for n in self.stochastic_nodes if getattr(self.nodes[n]["fn"], "has_rsample", False)]

    @property
    def nonreparam_stochastic_nodes(self) -> list[str]:
        """Those of them whose distributions have not."""
        smooth = set(self.reparameterized_nodes)
        return [n for n in self.stochastic_nodes if n not in smooth]

    def iter_stochastic_nodes(self) -> Iterator[tuple[str, Dictionary]]:
        """Names and messages of the latent sites."""
        return ((n, self.nodes[n]) for n in self.stochastic_nodes)

    # Shapes

    def format_shapes(self, title: str = "Trace Shapes:", last_site: str | None = None) -> str:
        """A table of the shapes of parameters, distributions, values and log-densities, up to `last_site`.

        The bar stands between batch and event dimensions.
        """
        if not self.nodes:
            return title
        rows: list[tuple[str, str, Iterable[int], Iterable[int]]] = [(title, "", (), ()), ("Param Sites:", "", (), ())]
        for name in self.param_nodes:
            value = self.nodes[name]["value"]
            rows.append((name, "", (), getattr(value, "shape", ())))
            if name == last_site:
                break
        rows.append(("Sample Sites:", "", (), ()))
        for name, site in self._samples():
            fn, value = site["fn"], site["value"]
            event = tuple(getattr(fn, "event_shape", ()))
            shape = tuple(getattr(value, "shape", ()))
            cut = len(shape) - len(event)
            rows.append((name, "dist", tuple(getattr(fn, "batch_shape", ())), event))
            rows.append(("", "value", shape[:cut], shape[cut:]))
            if "log_prob" in site:
                rows.append(("", "log_prob", tuple(site["log_prob"].shape), ()))
            if name == last_site:
                break
        return _aligned(rows)


def scaled(density: D, scale: Tensor | float, mask: Tensor | bool | None) -> D:
    """A log-density where `mask` is True, times `scale`; `density` may be the number zero."""
    if not isinstance(density, Tensor):
        return density
    if mask is not None and mask is not True:
        density = masked(density, torch.as_tensor(mask, device=density.device))
    return density if isinstance(scale, (int, float)) and scale == 1 else density * scale


def _warn(name: str, site: Dictionary) -> None:
    total = site["log_prob_sum"].detach()
    warn_if_nan(total, f"log_prob_sum at site '{name}'")
    warn_if_inf(total, f"log_prob_sum at site '{name}'", allow_neginf=True)


def _aligned(rows: Iterable[tuple[str, str, Iterable[int], Iterable[int]]]) -> str:
    """`name kind  batch | event`, right-aligned to the bar."""
    cells = [(n, k, [str(i) for i in batch], [str(i) for i in event]) for n, k, batch, event in rows]
    left = max(len(c[2]) for c in cells)
    right = max(len(c[3]) for c in cells)
    names = max(len(c[0]) for c in cells)
    kinds = max(len(c[1]) for c in cells)
    width = max((len(x) for c in cells for x in (*c[2], *c[3])), default=0)
    lines = []
    for name, kind, batch, event in cells:
        before = [x.rjust(width) for x in [""] * (left - len(batch)) + batch]
        after = [x.rjust(width) for x in event + [""] * (right - len(event))]
        bar = ["|"] if kind or event else []
        lines.append(" ".join([name.rjust(names), kind.rjust(kinds), *before, *bar, *after]).rstrip())
    return "\n".join(lines)
