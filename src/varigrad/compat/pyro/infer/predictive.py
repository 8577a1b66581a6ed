"""`Predictive`: predictions with Pyro's arguments, in the shapes that Pyro gives them."""

from __future__ import annotations

import glob
import warnings
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from varigrad.compat.pyro.primitives import get_param_store
from varigrad.distributions.rng import global_state, set_global_state
from varigrad.errors import VarigradError, did_you_mean
from varigrad.inference.predictive import Predictive as NativePredictive
from varigrad.language import handlers
from varigrad.language.messages import Named, Program, Record, Sample
from varigrad.language.primitives import deterministic
from varigrad.language.trace import Trace
from varigrad.language.value_conversion import as_numbers
from varigrad.user_warnings import warn_user

_RETURN = "_RETURN"


class Predictive(nn.Module):
    """`varigrad.Predictive`, with sites drawn from the prior where nothing is given.

    Args:
        model: the model.
        posterior_samples: draws of latent sites, `[num_samples, *site]`; or
        guide: where they come from. With neither, everything is drawn from the prior.
        num_samples: how many predictions; by default as many as there are posterior samples.
        return_sites: names of the sites to return, `"_RETURN"` for what the model returns; default: all that
            `posterior_samples` does not have.
        parallel: run all side by side, which needs a model that leaves leading dimensions alone; else one by one.

    Raises:
        VarigradError: (a `ValueError`) the number of predictions is missing, or two sources of latent values are given.
    """

    def __init__(
        self,
        model: Program,
        posterior_samples: Mapping[str, Tensor] | None = None,
        guide: Program | None = None,
        num_samples: int | None = None,
        return_sites: Iterable[str] | None = (),
        parallel: bool = False,
    ) -> None:
        super().__init__()
        samples = {n: as_numbers(n, v, "posterior samples") for n, v in (posterior_samples or {}).items()}
        if guide is not None and samples:
            raise VarigradError("Predictive takes posterior_samples or a guide, not both")
        if num_samples is None and not samples:
            raise VarigradError(
                "either posterior_samples or num_samples is needed", try_="Predictive(..., num_samples=1000)"
            )
        lengths = {len(value) for value in samples.values() if value.dim()}
        if num_samples is not None and lengths and lengths != {num_samples}:
            found = min(lengths)
            warn_user(f"there are {found} posterior samples, and num_samples is {num_samples}: {found} are predicted")
            num_samples = None
        self.model = model
        self.posterior_samples = samples
        self.guide = guide
        self.num_samples = num_samples
        self.return_sites: tuple[str, ...] | None = return_sites if return_sites is None else tuple(return_sites)
        self.parallel = parallel

    def forward(self, *args: object, **kwargs: object) -> dict[str, Tensor]:
        """`site -> [num_samples, *plates, *event]`; plates that a site is not in have size 1, if others are in them."""
        with torch.no_grad():
            first = _quietly(self.model, args, kwargs)
            given = {name: _fitted(value, first.get(name)) for name, value in self.posterior_samples.items()}
            given = {name: value for name, value in given.items() if name in first.samples}
            wanted = self._wanted(first)
            count = len(next(iter(self.posterior_samples.values()))) if self.num_samples is None else self.num_samples
            drawn = [n for n in wanted if not _observed(first.get(n))]
            native = NativePredictive(
                _returning(self.model) if _RETURN in wanted else self.model,
                self.guide,
                given or None,
                count,
                [glob.escape(name) for name in drawn],
                vectorize=self.parallel,
                owner=get_param_store(),
                strict=False,
            )
            found = native(*args, **kwargs) if drawn else {}
            depth = max((-p.dim for m in first.samples.values() for p in m.plates if p.dim is not None), default=0)
            for name in wanted:
                if name in first and name not in found:
                    recorded = first[name]
                    assert isinstance(recorded, (Sample, Record))
                    value = as_numbers(name, recorded.value, "the value")
                    found[name] = value.expand(count, *value.shape)
            return {n: found[n] if n == _RETURN else _padded(found[n], first[n], depth) for n in wanted}

    call = forward

    def get_samples(self, *args: object, **kwargs: object) -> dict[str, Tensor]:
        """The same as calling it, under an older name."""
        warnings.warn("get_samples is deprecated. Try: calling the object itself", FutureWarning, stacklevel=2)
        return self.forward(*args, **kwargs)

    def _wanted(self, first: Trace) -> list[str]:
        there = [name for name, m in first.items() if isinstance(m, (Sample, Record))]
        if self.return_sites:
            for name in self.return_sites:
                if name not in there and name != _RETURN:
                    near = did_you_mean(name, there)
                    warn_user(f"there is no site {name!r} to return{near}")
            return [n for n in (*there, _RETURN) if n in self.return_sites]
        return [name for name in there if name not in self.posterior_samples]


def _quietly(model: Program, args: tuple[object, ...], kwargs: dict[str, object]) -> Trace:
    """One run to see what there is, that leaves torch's generators as they were."""
    state = global_state()
    try:
        return handlers.trace(model)(*args, **kwargs)
    finally:
        set_global_state(state)


def _returning(model: Program) -> Program:
    """The model, with what it returns recorded as a site."""

    def program(*args: object, **kwargs: object) -> Tensor:
        result = model(*args, **kwargs)
        if not isinstance(result, Tensor):
            raise VarigradError(
                f"the model returns a {type(result).__name__}, and only tensors can be stacked",
                try_="return_sites without '_RETURN', or pyro.deterministic for what is to be predicted",
            )
        return deterministic(_RETURN, result)

    return program


def _observed(message: object) -> bool:
    return isinstance(message, Sample) and message.observed


def _fitted(value: Tensor, message: object) -> Tensor:
    """Posterior samples without the dimensions of size 1 that stand for plates the site is not in."""
    if not isinstance(message, Sample) or message.value is None:
        return value
    extra = value.dim() - 1 - message.value.dim()
    if extra > 0 and all(size == 1 for size in value.shape[1 : 1 + extra]):
        return value.reshape(value.shape[0], *value.shape[1 + extra :])
    return value


def _padded(value: Tensor, message: Named, depth: int) -> Tensor:
    """`[num_samples, *plates, *event]` with all of the model's plates."""
    if isinstance(message, Sample):
        there = value.dim() - 1 - len(message.distribution.event_shape)
    else:
        # A computed value has the plates around it, and events right of them; how many, few programs say.
        assert isinstance(message, Record)
        there = max((-p.dim for p in message.plates if p.dim is not None), default=0)
        if message.event_dim is not None:
            there = max(there, value.dim() - 1 - message.event_dim)
    missing = depth - there
    return value.reshape(value.shape[0], *(1,) * missing, *value.shape[1:]) if missing > 0 else value
