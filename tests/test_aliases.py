"""Writes through `.detach()` and `.data`, which share a tensor's memory and hide from autograd."""

import pytest
import torch
from torch import nn

import varigrad as vg
from varigrad import distributions as dist
from varigrad.errors import SiteError
from varigrad.estimators import Pathwise
from varigrad.objectives import BiasWarning

ONE = torch.ones((), dtype=torch.float64)


def out(target):
    torch.add(ONE, ONE, out=target)


WRITES = {
    "detach": lambda y: y.detach().add_(1),
    "data": lambda y: y.data.add_(1),
    "copy": lambda y: y.data.copy_(3 * ONE),
    "clamp": lambda y: y.data.clamp_(5.0, 6.0),
    "out": lambda y: out(y.detach()),
    "view": lambda y: y.detach().view(1)[0].fill_(3.0),
    "list": lambda y: torch._foreach_add_([y.detach()], 1.0),
    "numpy": lambda y: y.detach().numpy().fill(3.0),
    "norm": lambda y: nn.utils.vector_to_parameters(3 * ONE.reshape(1), [y.data]),
}


def bound_of(write, into_value, family=dist.Normal, **options):
    def model():
        z = vg.sample("z", dist.Bernoulli(0.4 * ONE) if family is dist.Bernoulli else dist.Normal(0 * ONE, ONE))
        y = z if into_value else torch.sigmoid(z)
        write(y)
        vg.factor("f", y * 2)

    def guide():
        m = vg.param("m", 0.3 * ONE)
        vg.sample("z", dist.Bernoulli(logits=m) if family is dist.Bernoulli else dist.Normal(m, 0.7), **options)

    return vg.ELBO()(model, guide)


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_write_through_an_alias_is_a_step(write):
    """The gradient is that of the numbers before, and the cost that of those after."""
    assert bound_of(write, False).plan()["z"].estimator.startswith("Score(")


def test_pathwise_by_name_is_suspect():
    with pytest.warns(BiasWarning, match="'z': Pathwise was asked for"):
        bound_of(WRITES["data"], False, estimator=Pathwise())


@pytest.mark.parametrize("family", [dist.Normal, dist.Bernoulli])
@pytest.mark.parametrize("name", [n for n in WRITES if n not in ("norm",)])
def test_a_write_through_an_alias_into_a_drawn_value_is_refused(name, family):
    with pytest.raises(SiteError, match="'z': the program writes into its value"):
        bound_of(WRITES[name], True, family)


@pytest.mark.parametrize(
    "harmless",
    [
        lambda y: y.detach(),
        lambda y: y.data.clone().add_(1),
        lambda y: y.detach().add(1),
        lambda y: y.data.view(1).sum(),
        lambda y: (y * 1).add_(y.detach()),
    ],
)
def test_an_alias_that_is_only_read_changes_nothing(harmless):
    assert bound_of(harmless, False).plan()["z"].estimator == "Pathwise()"


def test_a_write_that_autograd_sees_is_none_through_an_alias():
    def write(y):
        y.detach()
        y.add_(1)

    assert bound_of(write, False).plan()["z"].estimator == "Pathwise()"


def test_a_value_that_is_no_number_is_not_taken_for_a_write():
    bound_of(lambda y: (y.detach() * torch.nan).detach(), False).plan()
