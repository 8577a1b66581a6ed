r"""RELAX and LAX: control variates that a network learns; the gradient of their mean is known from reparameterisation.

The network is trained to minimise the squared gradient. The control variate has mean zero for any network, so a poor
network only adds variance. Its output is scaled by past costs, and it sees one plate element at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch import distributions as td

from varigrad.distributions.finite_support import inner_of
from varigrad.distributions.rng import Source
from varigrad.errors import BaselineError
from varigrad.estimators.base import Draw, Estimator, Lanes, State, Surrogate, first
from varigrad.estimators.concrete_relaxation import given, is_one_hot, logits_of, refusal_to_relax, softened, uniform
from varigrad.estimators.control_variate_weights import following_units, units
from varigrad.estimators.muprop import times
from varigrad.language.messages import evolve
from varigrad.shapes import sum_rightmost


@dataclass(frozen=True)
class Relax(Estimator):
    r"""RELAX: a network of the concrete variable behind a discrete draw is the control variate.

    .. math:: (f(b) - c_\phi(\tilde z))\, \nabla \log q(b) + \nabla c_\phi(z) - \nabla c_\phi(\tilde z)

    z and :math:`\tilde z` are concrete variables, independent given b. Serves Bernoulli and OneHotCategorical, also
    with `.to_event`. One evaluation: the cost may be a black box. Unbiased, whatever the network.

    Args:
        network: from `[*plates, n]`, the n numbers behind an element, to `[*plates]` or `[*plates, 1]`; it has to be
            smooth (tanh, not ReLU: the training differentiates it twice).

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> from varigrad.estimators import Relax
        >>> network = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
        >>> def model():
        ...     z = vg.sample("z", dist.Bernoulli(0.3))
        ...     vg.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.5))
        >>> def guide():
        ...     vg.sample("z", dist.Bernoulli(logits=vg.param("w", 0.0)), estimator=Relax(network))
        >>> loss = vg.ELBO()(model, guide)
        >>> loss().backward()
        >>> loss.plan()["z"].estimator, loss.plan()["z"].unbiased
        ('Relax(network=Sequential)', True)

    References:
        Grathwohl, Choi, Wu, Roeder, Duvenaud (2018), Backpropagation through the void: optimizing control variates for
        black-box gradient estimation. arXiv:1711.00123.
    """

    network: nn.Module

    def refusal(self, distribution: td.Distribution) -> tuple[str, str] | None:
        return refusal_to_relax("Relax", distribution)

    def draw(self, distribution: td.Distribution, lanes: Lanes | None, source: Source, state: State) -> Draw:
        drawn = Estimator.draw(self, distribution, lanes, source, state)
        logits = logits_of(drawn).detach()
        noise = uniform(source, logits)
        free = given(_hard(drawn), logits, uniform(source, logits), is_one_hot(distribution)) - logits
        return evolve(drawn, noise=(free, noise))

    def surrogate(self, draw: Draw, cost: Tensor, state: State) -> Surrogate:
        event, one_hot = len(draw.distribution.event_shape), is_one_hot(draw.distribution)
        logits, hard = logits_of(draw), _hard(draw)
        assert isinstance(draw.noise, tuple)
        free, noise = draw.noise
        with torch.enable_grad():
            leaf = logits.detach().requires_grad_()
            one = _answer(self.network, leaf + free, event, state)
            two = _answer(self.network, given(hard, leaf, noise, one_hot), event, state)
            (path,) = torch.autograd.grad((one - two).sum(), leaf, create_graph=True)
            score = hard - softened(leaf.detach(), 1.0, one_hot)
            field = times(cost - two, score, event) + path
        loss = (field / units(state, cost)[1]).square().mean()
        return Surrogate(sum_rightmost(field.detach() * logits, event), following_units(state, cost), loss)

    def parameters_of_baselines(self) -> Mapping[str, nn.Module]:
        return {"": self.network}


@dataclass(frozen=True)
class Lax(Estimator):
    r"""LAX: a network of a continuous draw is the control variate.

    .. math:: (f(z) - c_\phi(z))\, \nabla \log q(z) + \nabla c_\phi(\mu + \sigma \epsilon)

    The score function where the cost and the network differ, the pathwise gradient of the network. Serves Normal, also
    with `.to_event`. One evaluation: the cost may be a black box, jumps included. Unbiased, whatever the network.

    Args:
        network: from `[*plates, n]`, the n numbers of an element, to `[*plates]` or `[*plates, 1]`; smooth.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> from varigrad.estimators import Lax
        >>> network = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
        >>> def model():
        ...     vg.sample("x", dist.Normal(vg.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=torch.tensor(2.0))
        >>> def guide():
        ...     vg.sample("z", dist.Normal(vg.param("m", 0.0), 1.0), estimator=Lax(network))
        >>> loss = vg.ELBO()(model, guide)
        >>> loss().backward()
        >>> loss.plan()["z"].unbiased
        True

    References:
        Grathwohl, Choi, Wu, Roeder, Duvenaud (2018), Backpropagation through the void: optimizing control variates for
        black-box gradient estimation. arXiv:1711.00123.
    """

    network: nn.Module

    def refusal(self, distribution: td.Distribution) -> tuple[str, str] | None:
        inner, _ = inner_of(distribution)
        if isinstance(inner, td.Normal):
            return None
        name = type(inner).__name__
        return (
            f"Lax is for Normal choices, and this is {name}",
            "Relax(network) for coins, Pathwise(), or LeaveOneOut(4)",
        )

    def surrogate(self, draw: Draw, cost: Tensor, state: State) -> Surrogate:
        assert draw.log_q is not None
        event = len(draw.distribution.event_shape)
        inner, _ = inner_of(draw.distribution)
        assert isinstance(inner, td.Normal)
        loc, scale = first(inner.loc, draw, event), first(inner.scale, draw, event)
        noise = ((_hard(draw) - loc) / scale).detach()
        with torch.enable_grad():
            value = _hard(draw).requires_grad_()
            control = _answer(self.network, value, event, state)
            (slope,) = torch.autograd.grad(control.sum(), value, create_graph=True)
            # By location and scale, both in units of the scale.
            left, steep = cost - control, slope * scale.detach()
            fields = times(left, noise, event) + steep, times(left, noise.square() - 1, event) + steep * noise
        loss = (torch.stack(fields) / units(state, cost)[1]).square().mean()
        path = sum_rightmost(slope.detach() * (loc + scale * noise), event)
        return Surrogate(left.detach() * draw.log_q + path, following_units(state, cost), loss)

    def parameters_of_baselines(self) -> Mapping[str, nn.Module]:
        return {"": self.network}


def _hard(draw: Draw) -> Tensor:
    """Lane 0's value, `[*plates, *event]`."""
    return first(draw.value.detach(), draw, len(draw.distribution.event_shape))


def _answer(network: nn.Module, z: Tensor, event: int, state: State) -> Tensor:
    """The network's guess of the cost, `[*plates]`."""
    plates = z.shape[: z.dim() - event]
    found = network(z.reshape(*plates, -1))
    if found.shape not in (plates, (*plates, 1)):
        raise BaselineError(
            f"the network makes {tuple(found.shape)} of {(*plates, z.shape[z.dim() - event :].numel())}",
            site="Relax or Lax",
            because="it guesses one cost for each element of the site's plates",
            try_="nn.Sequential(nn.Linear(n, 10), nn.Tanh(), nn.Linear(10, 1))",
        )
    centre, unit = units(state, z)
    answer: Tensor = centre + unit * found.reshape(plates)
    return answer
