"""Parameters that live elsewhere, programs that do not have the same sites, and notes on sites."""

import torch

import varigrad as vg
from varigrad import distributions as dist
from varigrad.language import handlers
from varigrad.language.messages import Param
from varigrad.language.runtime import apply
from varigrad.objectives.parameters import Parameters
from varigrad.testing import exact_gradient, expected_gradient, largest_difference

t = torch.tensor


def model():
    z = vg.sample("z", dist.Bernoulli(t(0.3, dtype=torch.float64)))
    vg.sample("x", dist.Normal(z, 1.0), obs=t(1.0, dtype=torch.float64))


def guide():
    vg.sample("z", dist.Bernoulli(logits=vg.param("logit", t(0.2, dtype=torch.float64))))


def test_an_owner_is_shared_by_objectives_and_outlives_them():
    owner = Parameters()
    one, two = (vg.ELBO().bind(model, guide, None, owner) for _ in range(2))
    assert not list(owner.parameters())  # nothing is run before it is asked for
    one().backward()
    two().backward()
    assert [n for n, _ in owner.named_parameters()] == ["logit"]
    assert not list(one.parameters()) and not list(two.parameters())
    assert owner.logit.grad is not None


def nested():
    a = vg.sample("a", dist.Bernoulli(t(0.3, dtype=torch.float64)))
    b = vg.sample("b", dist.Bernoulli(torch.sigmoid(2 * a - vg.param("c", t(0.4, dtype=torch.float64)))))
    vg.sample("x", dist.Normal(a + 2 * b, 1.0), obs=t(1.0, dtype=torch.float64))


def partial_guide():
    vg.sample("a", dist.Bernoulli(logits=vg.param("logit", t(0.2, dtype=torch.float64))))


def test_what_the_guide_lacks_is_drawn_as_the_model_does():
    def completed():
        a = vg.sample("a", dist.Bernoulli(logits=vg.param("logit", t(0.2, dtype=torch.float64))))
        vg.sample("b", dist.Bernoulli(torch.sigmoid(2 * a - vg.param("c", t(0.4, dtype=torch.float64)))))

    for particles, vectorize in ((1, None), (2, True), (2, False)):
        loose = vg.ELBO(particles, strict=False, vectorize=vectorize)(nested, partial_guide)
        exact = exact_gradient(vg.ELBO()(nested, completed))
        moments = expected_gradient(loose)
        assert largest_difference(moments.mean, exact[1]) < 1e-9
        assert abs(moments.value - exact[0]) < 1e-9


def test_what_the_model_lacks_is_auxiliary():
    def wide():
        partial_guide()
        vg.sample("b", dist.Bernoulli(t(0.5, dtype=torch.float64)))
        vg.sample("extra", dist.Bernoulli(logits=vg.param("more", t(0.2, dtype=torch.float64))))

    moments = expected_gradient(vg.ELBO(strict=False)(nested, wide))
    # The entropy of a Bernoulli: d H / d logit = -logit p (1 - p).
    p = torch.sigmoid(t(0.2, dtype=torch.float64))
    assert torch.allclose(moments.mean["more"], -0.2 * p * (1 - p))


def test_notes_reach_handlers_and_traces():
    found = handlers.trace(lambda: vg.sample("z", dist.Normal(0.0, 1.0), notes={"colour": "red"}))()
    assert found["z"].notes == {"colour": "red"}


def test_a_parameter_may_have_a_fallback():
    message = Param("a", None, dist.constraints.real, None, fallback=lambda m: t(float(len(m.name))))
    assert apply(message).value == 1.0
