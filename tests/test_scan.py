"""`scan`: rounds that run at once have the densities, gradients and posteriors of rounds that run one by one."""

import itertools

import pytest
import torch

import varigrad as vg
from varigrad import distributions as dist
from varigrad.errors import PlateError, ShapeError, SiteError, VarigradError

F = torch.float64
TRANSITION = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.4, 0.3], [0.05, 0.15, 0.8]], dtype=F)
SECOND = torch.tensor([[0.6, 0.4], [0.1, 0.9]], dtype=F)


def rounds_of(length):
    generator = torch.Generator().manual_seed(length)
    return torch.randn(length, generator=generator, dtype=F)


def start(dtype=F):
    return vg.param("levels", torch.tensor([-1.0, 0.3, 1.2], dtype=dtype))


def chain(y):
    levels = start()

    def step(z, y):
        z = vg.sample("z", dist.Categorical(TRANSITION[z]))
        vg.sample("y", dist.Normal(levels[z], 0.7), obs=y)
        return z

    vg.scan(step, torch.tensor(1), y)


def loop(y):
    levels, z = start(), torch.tensor(1)
    for t in range(len(y)):
        z = vg.sample(f"z_{t}", dist.Categorical(TRANSITION[z]))
        vg.sample(f"y_{t}", dist.Normal(levels[z], 0.7), obs=y[t])


def nothing(*args):
    pass


def value_and_gradient(model, *args, **options):
    bound = vg.ELBO(marginal=True, **options)(model, nothing).init(*args)
    loss = bound(*args)
    return loss.detach(), torch.autograd.grad(loss, bound.get_parameter("levels"))[0]


@pytest.mark.parametrize("length", [1, 2, 3, 7, 17, 40])
def test_it_is_the_loop(length):
    y = rounds_of(length)
    for one, other in zip(value_and_gradient(chain, y), value_and_gradient(loop, y), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def factorial(y, mask):
    """Two chains whose states are read together, in a batch of unequal sequences, under a global choice."""
    levels = start()
    g = vg.sample("g", dist.Bernoulli(torch.tensor(0.3, dtype=F)))
    with vg.plate("sequences", y.shape[1], dim=-1):

        def step(carry, rows):
            (z, w), (y, mask) = carry, rows
            with vg.handlers.mask(mask=mask):
                z = vg.sample("z", dist.Categorical(TRANSITION[z]))
                w = vg.sample("w", dist.Bernoulli(SECOND[w.long(), 1]))
                vg.sample("y", dist.Normal(levels[z] + w - g, 0.7), obs=y)
            return z, w

        vg.scan(step, (torch.tensor(1), torch.tensor(0)), (y, mask), dim=-2)


def forward(levels, y, lengths):
    """The log-likelihood of `factorial` by the textbook's recursion over both states."""
    total = []
    for g, prior in ((0.0, 0.7), (1.0, 0.3)):
        value = torch.tensor(prior, dtype=F).log()
        for s, length in enumerate(lengths):
            belief = TRANSITION[1][:, None] * SECOND[0][None]
            for t in range(length):
                if t:
                    belief = torch.einsum("ij,ik,jl->kl", belief, TRANSITION, SECOND)
                mean = levels[:, None] + torch.arange(2, dtype=F) - g
                belief = belief * torch.distributions.Normal(mean, 0.7).log_prob(y[t, s]).exp()
            value = value + belief.sum().log()
        total.append(value)
    return torch.stack(total).logsumexp(0)


def batch():
    y = torch.randn(6, 3, generator=torch.Generator().manual_seed(3), dtype=F)
    lengths = [6, 4, 1]
    return y, torch.arange(6)[:, None] < torch.tensor(lengths), lengths


def test_several_states_masks_and_a_choice_outside():
    y, mask, lengths = batch()
    value, gradient = value_and_gradient(factorial, y, mask)
    levels = torch.tensor([-1.0, 0.3, 1.2], dtype=F, requires_grad=True)
    exact = -forward(levels, y, lengths)
    torch.testing.assert_close(value, exact.detach(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradient, torch.autograd.grad(exact, levels)[0], rtol=1e-9, atol=1e-9)


def test_compiled_steps_are_the_eager_ones():
    y, mask, _ = batch()
    losses = {}
    for compile in (False, "wait"):
        svi = vg.SVI(factorial, nothing, vg.optim.Adam(0.05), vg.ELBO(marginal=True), seed=0, compile=compile)
        losses[compile] = svi.run(30, y, mask).losses
        if compile:
            assert "(C)" in str(svi.explain())
    torch.testing.assert_close(losses[False], losses["wait"], rtol=1e-8, atol=1e-8)


def posterior(y):
    """Probabilities of all joint states of `chain`, by states, `[3] * rounds`."""
    levels = torch.tensor([-1.0, 0.3, 1.2], dtype=F)
    table = torch.zeros([3] * len(y), dtype=F)
    for states in itertools.product(range(3), repeat=len(y)):
        before = 1
        for t, state in enumerate(states):
            density = torch.distributions.Normal(levels[state], 0.7).log_prob(y[t])
            table[states] += TRANSITION[before, state].log() + density
            before = state
    return (table - table.logsumexp(list(range(len(y))))).exp()


def test_posteriors_of_the_states():
    y = rounds_of(5)
    svi = vg.SVI(chain, nothing, vg.optim.Adam(1e-12), vg.ELBO(marginal="z_*"), seed=0)
    fit = svi.run(1, y)
    exact = posterior(y)
    each = torch.stack([exact.sum([d for d in range(5) if d != t]) for t in range(5)])
    torch.testing.assert_close(fit.marginals("z", draws=1), each, rtol=1e-9, atol=1e-9)

    best = fit.predict(1, y, marginal="max")
    states = [int(best[f"z_{t}"]) for t in range(5)]
    assert exact[tuple(states)] == exact.max()

    drawn = fit.predict(500, y)
    index = torch.stack([drawn[f"z_{t}"][:, 0] for t in range(5)])
    counts = torch.zeros_like(exact).index_put(tuple(index), torch.ones(500, dtype=F), accumulate=True)
    likely = exact > 0.005
    error = (exact * (1 - exact) / 500).sqrt()
    assert ((counts / 500 - exact).abs() < 5 * error)[likely].all()


def test_predictions_without_observations_come_from_the_prior():
    y = rounds_of(4)

    def model(y, length=4):
        levels = start()

        def step(z, row):
            z = vg.sample("z", dist.Categorical(TRANSITION[z]))
            vg.sample("y", dist.Normal(levels[z], 0.7), obs=row if y is not None else None)
            return z

        vg.scan(step, torch.tensor(1), torch.zeros(length, dtype=F) if y is None else y)

    fit = vg.SVI(model, nothing, vg.optim.Adam(1e-12), vg.ELBO(marginal="z_*"), seed=0).run(1, y)
    drawn = fit.predict(300, None)
    assert {f"y_{t}" for t in range(4)} <= drawn.keys()
    shares = torch.stack([(drawn["z_1"] == k).double().mean() for k in range(3)])
    exact = TRANSITION[1] @ TRANSITION
    assert ((shares - exact).abs() < 5 * (exact * (1 - exact) / 300).sqrt()).all()


def test_without_an_objective_the_rounds_run_one_by_one():
    trace = vg.handlers.trace(chain)(rounds_of(3))
    assert [name for name in trace if name[0] in "zy"] == ["z_0", "y_0", "z_1", "y_1", "z_2", "y_2"]
    assert trace["z_1"].value.shape == (1,)


def test_a_guide_may_draw_the_states():
    y = rounds_of(3)

    def guide(y):
        def step(_, row):
            return vg.sample("z", dist.Categorical(torch.tensor([0.3, 0.3, 0.4], dtype=F)))

        vg.scan(step, torch.tensor(0), y)

    loss = vg.ELBO()(chain, guide).init(y)(y)
    assert loss.isfinite()


@pytest.mark.parametrize(
    ("xs", "error", "text"),
    [
        (torch.zeros(0), ShapeError, "one length, which is at least 1"),
        ((torch.zeros(3), torch.zeros(2)), ShapeError, r"got \[2, 3\]"),
        (5, ShapeError, "tensors with a leading dimension, got int"),
        (torch.tensor(1.0), ShapeError, "leading dimension"),
    ],
)
def test_rows_have_one_length(xs, error, text):
    with pytest.raises(error, match=text):
        vg.scan(lambda carry, x: carry, None, xs)


def test_dimensions_are_checked():
    with pytest.raises(PlateError, match="'time': dim must be a negative whole number"):
        vg.scan(lambda carry, x: carry, None, torch.zeros(2), dim=0)
    with pytest.raises(PlateError, match=r"dim -1 is taken by plate 'sequences'"), vg.plate("sequences", 2):
        vg.scan(lambda carry, x: carry, None, torch.zeros(2), dim=-1)


def handing_on(what):
    def model(y):
        levels = start()

        def step(z, y):
            z = vg.sample("z", dist.Categorical(TRANSITION[z]))
            vg.sample("y", dist.Normal(levels[z], 0.7), obs=y)
            return what(z)

        vg.scan(step, torch.tensor(1), y)

    return model


@pytest.mark.parametrize(
    "what", [lambda z: z + 0, lambda z: torch.tensor(1), lambda z: None], ids=["sum", "new", "none"]
)
def test_what_is_handed_on_is_a_value_of_a_site(what):
    with pytest.raises(SiteError, match="'time': scan's step returns something else than values of sites"):
        vg.ELBO(marginal=True)(handing_on(what), nothing).init(rounds_of(3))


def test_a_step_that_branches_on_the_state_is_refused():
    def model(y):
        def step(z, y):
            z = vg.sample("z", dist.Categorical(TRANSITION[1]))
            vg.sample("y", dist.Normal(1.0 if bool((z == 1).all()) else 0.0, 1.0), obs=y)
            return z

        vg.scan(step, torch.tensor(1), y)

    with pytest.raises(VarigradError, match="'z_0': cannot be summed out; because its value leaves torch"):
        vg.ELBO(marginal=True)(model, nothing).init(rounds_of(3))


def test_too_many_states_are_refused_before_memory_is_asked_for():
    def model(y):
        def step(z, y):
            z = vg.sample("z", dist.Categorical(torch.ones(1000)[z.unsqueeze(-1) * 0].expand(*z.shape, 1000)))
            vg.sample("y", dist.Normal(z.float(), 1.0), obs=y)
            return z

        vg.scan(step, torch.tensor(0), y)

    with pytest.raises(SiteError, match=r"needs a table of 4.99e\+08 entries.*z_1-499 \(1000\)"):
        vg.ELBO(marginal=True)(model, nothing).init(torch.zeros(500))


def summing(y):
    """A step whose density depends on all of its rows."""
    levels = start()

    def step(z, y):
        z = vg.sample("z", dist.Categorical(TRANSITION[z]))
        vg.sample("y", dist.Normal(levels[z] + y.sum(), 0.7), obs=y)
        return z

    vg.scan(step, torch.tensor(1), y)


def counting(y):
    """A step that keeps something outside of its carry."""
    levels, count = start(), [0.0]

    def step(z, y):
        count[0] += 1.0
        z = vg.sample("z", dist.Categorical(TRANSITION[z]))
        vg.sample("y", dist.Normal(levels[z] + count[0], 0.7), obs=y)
        return z

    vg.scan(step, torch.tensor(1), y)


def without_states(y):
    """The same in a density that reads no state."""
    levels = start()

    def step(z, y):
        z = vg.sample("z", dist.Categorical(TRANSITION[z]))
        vg.sample("y", dist.Normal(levels[z], 0.7), obs=y)
        vg.sample("w", dist.Normal(y.cumsum(0), 0.7), obs=y)
        return z

    vg.scan(step, torch.tensor(1), y)


@pytest.mark.parametrize("model", [summing, counting, without_states])
def test_a_step_that_joins_rounds_is_refused(model):
    with pytest.raises(SiteError, match=r"'time': scan's step gives '[yw]' another density in round [1-4] by itself"):
        vg.ELBO(marginal=True)(model, nothing).init(rounds_of(7))


def before_alone(y):
    """Observations read the state before their round, and states do not depend on each other."""
    levels = start()

    def step(before, y):
        z = vg.sample("z", dist.Categorical(TRANSITION[2]))
        vg.sample("y", dist.Normal(levels[before], 0.7), obs=y)
        return z

    vg.scan(step, torch.tensor(1), y)


def test_a_step_that_reads_the_state_before_it_alone():
    y = rounds_of(6)
    value, _ = value_and_gradient(before_alone, y)
    levels = torch.tensor([-1.0, 0.3, 1.2], dtype=F)
    densities = torch.distributions.Normal(levels, 0.7).log_prob(y.unsqueeze(-1))
    exact = densities[0, 1] + (TRANSITION[2].log() + densities[1:]).logsumexp(-1).sum()
    torch.testing.assert_close(value, -exact, rtol=1e-10, atol=1e-10)


def test_posteriors_of_a_minibatch():
    """A global choice above a subsampled plate: its posterior is that of the minibatch, which is not scaled."""
    y = rounds_of(6)

    def model(y):
        levels = start()
        k = vg.sample("k", dist.Categorical(TRANSITION[0]))
        with vg.plate("data", 12, subsample=torch.arange(6)):
            vg.sample("y", dist.Normal(levels[k], 0.7), obs=y)

    with pytest.warns(vg.objectives.BiasWarning, match="k: summed out outside of plate 'data'"):
        fit = vg.SVI(model, nothing, vg.optim.Adam(1e-12), vg.ELBO(marginal="k"), seed=0).run(1, y)
    levels = torch.tensor([-1.0, 0.3, 1.2], dtype=F)
    density = torch.distributions.Normal(levels, 0.7).log_prob(y.unsqueeze(-1)).sum(0) + TRANSITION[0].log()
    torch.testing.assert_close(fit.marginals("k", draws=1), density.softmax(-1), rtol=1e-8, atol=1e-10)


def test_rows_lie_left_of_the_plates_around():
    with (
        pytest.raises(ShapeError, match=r"rows of shape \(5,\) .* lie at dim -2.*x.reshape\(5, 1\)"),
        vg.plate("sequences", 4),
    ):
        vg.scan(lambda carry, x: carry, None, torch.arange(5))


def test_a_name_that_is_not_summed_out_says_how_to_write_it():
    with pytest.raises(SiteError, match=r"'z_0': .*marginal= names 'y'.*ELBO\(marginal='z_\*'\) to sum it out"):
        vg.ELBO(marginal="y")(chain, nothing).init(rounds_of(4))
    fit = vg.SVI(chain, nothing, vg.optim.Adam(1e-12), vg.ELBO(marginal="z_*"), seed=0).run(1, rounds_of(4))
    with pytest.raises(SiteError, match=r"'z_2': is not summed out.*marginals\('z'\)\[2\]"):
        fit.marginals("z_2")


def test_compare_sums_out_what_the_objective_says():
    from varigrad.estimators import Pathwise, Score

    def model(x):
        loc = vg.sample("loc", dist.Normal(0.0, 1.0))
        k = vg.sample("k", dist.Bernoulli(0.3))
        vg.sample("x", dist.Normal(loc + 2 * k, 1.0), obs=x)

    def guide(x):
        vg.sample("loc", dist.Normal(vg.param("m", 0.1), 0.7))

    found = vg.compare(
        model, guide, torch.tensor(1.0), {"loc": [Pathwise(), Score()]}, objective=vg.ELBO(marginal="k"), budget=60
    )
    assert "Pathwise" in str(found)


def test_what_a_guide_draws_is_drawn_before_the_rounds():
    def noisy(y):
        levels = start()

        def step(z, y):
            z = vg.sample("z", dist.Categorical(TRANSITION[z]))
            u = vg.sample("u", dist.Normal(torch.zeros((), dtype=F), 1.0))
            vg.sample("y", dist.Normal(levels[z] + u, 0.7), obs=y)
            return z

        vg.scan(step, torch.tensor(1), y)

    def guide(y):
        for t in range(len(y)):
            with vg.plate(f"time_{t}", 1):
                vg.sample(f"u_{t}", dist.Normal(torch.zeros((), dtype=F), 1.0))

    with pytest.raises(SiteError, match=r"'u_\*': is drawn inside scan and not summed out.*before scan, in a plate"):
        vg.ELBO(marginal="z_*")(noisy, guide).init(rounds_of(4))


def test_a_site_that_is_summed_out_has_no_estimator():
    from varigrad.estimators import LeaveOneOut

    with pytest.raises(SiteError, match="'z_0': estimators names it, and it is summed out"):
        vg.ELBO(marginal="z_*", estimators={"z_0": LeaveOneOut(2)})(chain, nothing).init(rounds_of(3))


def test_a_term_without_states():
    """A step may have densities that read no state."""

    def model(y):
        levels = start()

        def step(z, y):
            z = vg.sample("z", dist.Categorical(TRANSITION[z]))
            vg.sample("y", dist.Normal(levels[z], 0.7), obs=y)
            vg.sample("w", dist.Normal(torch.zeros((), dtype=F), 2.0), obs=y)
            return z

        vg.scan(step, torch.tensor(1), y)

    y = rounds_of(7)
    extra = torch.distributions.Normal(torch.zeros((), dtype=F), 2.0).log_prob(y).sum()
    torch.testing.assert_close(value_and_gradient(model, y)[0], value_and_gradient(chain, y)[0] - extra)
