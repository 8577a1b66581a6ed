"""Flows: maps that are inverted and whose Jacobians are those of autograd, and that fit what they are trained on."""

import copy
import math
import pickle

import pytest
import torch
from torch import distributions as td

import varigrad as vg
from varigrad import distributions as dist
from varigrad.distributions import flows

t = torch.tensor
D = 4


def seeded(make):
    torch.manual_seed(3)
    return make().double()


def shaken(flow):
    """Parameters away from where they start."""
    with torch.no_grad():
        for p in flow.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return flow.eval()


FLOWS = {
    "AffineAutoregressive": lambda: flows.affine_autoregressive(D, [8, 8]),
    "AffineAutoregressiveStable": lambda: flows.affine_autoregressive(D, stable=True),
    "AffineCoupling": lambda: flows.affine_coupling(D),
    "BatchNorm": lambda: flows.batchnorm(D),
    "Householder": lambda: flows.householder(D),
    "Planar": lambda: flows.planar(D),
    "Radial": lambda: flows.radial(D),
    "SplineLinear": lambda: flows.Spline(D),
    "SplineQuadratic": lambda: flows.Spline(D, order="quadratic"),
    "SplineCoupling": lambda: flows.spline_coupling(D),
    "SplineCouplingQuadratic": lambda: flows.spline_coupling(D, order="quadratic"),
    "SplineAutoregressive": lambda: flows.spline_autoregressive(D),
    "SplineAutoregressiveQuadratic": lambda: flows.spline_autoregressive(D, order="quadratic"),
    "Sylvester": lambda: flows.sylvester(D),
}


@pytest.mark.parametrize("name", FLOWS)
def test_inverse_and_jacobian(name):
    flow = shaken(seeded(FLOWS[name]))
    x = 2 * torch.randn(7, D, dtype=torch.float64)
    y = flow(x)
    assert y.shape == x.shape
    log_det = flow.log_abs_det_jacobian(x, y)
    jacobian = torch.stack([torch.autograd.functional.jacobian(flow._call, row) for row in x])
    torch.testing.assert_close(log_det, torch.linalg.slogdet(jacobian).logabsdet)
    assert flow.inv(y) is x  # remembered
    if name == "Sylvester":
        with pytest.raises(NotImplementedError, match="no inverse"):
            flow.inv(y.clone())
    else:
        torch.testing.assert_close(flow.inv(y.clone()), x, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", [n for n in FLOWS if n != "Sylvester"])
def test_gradients_through_the_inverse(name):
    """Of what was, is and will be: x(y(x)) is x whatever the parameters, so its gradient in them is zero."""
    flow = shaken(seeded(FLOWS[name]))
    x = torch.randn(5, D, dtype=torch.float64)
    back = flow._inverse(flow._call(x))
    weights = torch.randn_like(back)
    for gradient in torch.autograd.grad((back * weights).sum(), list(flow.parameters()), allow_unused=True):
        assert gradient is None or gradient.abs().max() < 1e-6


@pytest.mark.parametrize("name", FLOWS)
def test_they_are_modules_that_copy_and_pickle(name):
    flow = seeded(FLOWS[name]).eval()
    x = torch.randn(3, D, dtype=torch.float64)
    y = flow(x)
    for twin in (copy.deepcopy(flow), pickle.loads(pickle.dumps(flow))):
        assert torch.equal(twin(x), y)
        assert [n for n, _ in twin.named_parameters()] == [n for n, _ in flow.named_parameters()]
    assert list(flow.parameters())
    assert len({flow, flow}) == 1


def test_what_is_remembered_is_not_stale():
    """The density of a stored value is that under today's parameters, with all of its gradients."""
    flow = seeded(lambda: flows.affine_autoregressive(D))
    base = dist.Normal(torch.zeros(D).double(), 1.0).to_event(1)
    d = dist.TransformedDistribution(base, [flow])
    with torch.no_grad():
        value = d.sample()

    def gradients(value):
        return torch.cat([g.flatten() for g in torch.autograd.grad(d.log_prob(value), list(flow.parameters()))])

    with torch.no_grad():
        d.log_prob(value)
    assert torch.allclose(gradients(value), gradients(value.clone()))
    assert torch.allclose(gradients(value), gradients(value.clone()))
    value = d.rsample()
    shaken(flow)
    assert torch.allclose(d.log_prob(value), d.log_prob(value.clone()))


def test_outside_of_the_box_splines_are_the_identity():
    flow = flows.Spline(2, bound=2.0)
    x = t([[-5.0, 3.0], [2.5, -2.5]])
    assert torch.equal(flow(x), x)
    assert not flow.log_abs_det_jacobian(x, x).any()
    with pytest.raises(ValueError, match="order must be"):
        flows.Spline(2, order="cubic")


def test_coupling_of_images():
    flow = shaken(flows.affine_coupling([4, 3, 2], [10], dim=-3)).double()
    x = torch.randn(5, 4, 3, 2, dtype=torch.float64)
    y = flow(x)
    assert torch.equal(y[:, :2], x[:, :2])
    torch.testing.assert_close(flow.inv(y.clone()), x)
    jacobian = torch.autograd.functional.jacobian(flow._call, x[0]).reshape(24, 24)
    assert torch.allclose(flow.log_abs_det_jacobian(x, y)[0], torch.linalg.slogdet(jacobian).logabsdet)
    with pytest.raises(ValueError, match="rightmost dimensions"):
        flows.affine_coupling(4, dim=-2)


def test_batch_norm_follows_batches():
    flow = flows.batchnorm(2, momentum=0.5).train()
    y = torch.randn(1000, 2) * 3 + 5
    x = flow.inv(y)
    assert torch.allclose(x.mean(0), torch.zeros(2), atol=1e-5)
    assert torch.allclose(x.std(0), torch.ones(2), atol=1e-3)
    assert torch.allclose(flow.moving_mean, y.mean(0) / 2, atol=1e-5)
    flow.eval()
    before = flow.moving_mean.clone()
    flow.inv(torch.randn(10, 2))
    assert torch.equal(flow.moving_mean, before)


def test_composed_modules():
    parts = [flows.planar(2), dist.transforms.Permute(t([1, 0])), flows.radial(2)]
    flow = flows.ComposeTransformModule(parts)
    assert len(list(flow.parameters())) == 6
    assert flow(torch.randn(3, 2)).shape == (3, 2)


def crescent(z):
    return td.Normal(0.0, 1.0).log_prob(z[..., 0]) + td.Normal(z[..., 0] ** 2, 0.3).log_prob(z[..., 1])


@pytest.mark.parametrize("make", [lambda: flows.spline_coupling(2), lambda: flows.affine_autoregressive(2, [16])])
def test_a_flow_as_guide(make):
    """A density that a Normal fits badly: its integral is one, so the bound's best value is zero."""
    torch.manual_seed(0)
    flow = torch.nn.ModuleList([make(), make()])
    swap = dist.transforms.Permute(t([1, 0]))

    def model():
        z = vg.sample("z", dist.Normal(torch.zeros(2), 5.0).to_event(1))
        vg.factor("crescent", crescent(z) - dist.Normal(torch.zeros(2), 5.0).to_event(1).log_prob(z))

    def guide():
        vg.module("flow", flow)
        base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        vg.sample("z", dist.TransformedDistribution(base, [flow[0], swap, flow[1]]))

    svi = vg.SVI(model, guide, vg.optim.Adam(lr=5e-3), vg.ELBO(particles=8), seed=0)
    before = svi.evaluate(particles=20)
    svi.run(120)
    assert svi.evaluate(particles=40) < before / 4


def test_a_flow_fitted_to_data():
    torch.manual_seed(0)
    angle = torch.rand(500) * 2 * math.pi
    data = torch.stack([angle.cos(), angle.sin()], -1) + 0.1 * torch.randn(500, 2)
    flow = flows.spline_coupling(2, count_bins=12)
    base = dist.Normal(torch.zeros(2), torch.ones(2)).to_event(1)
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        loss = -dist.TransformedDistribution(base, [flow]).log_prob(data).mean()
        loss.backward()
        optimizer.step()
    normal = dist.MultivariateNormal(data.mean(0), data.T.cov()).log_prob(data).mean()
    assert -loss > normal + 0.3
    draws = dist.TransformedDistribution(base, [flow]).sample((1000,))
    assert (draws.norm(dim=-1) - 1).abs().median() < 0.3
