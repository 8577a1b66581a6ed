"""Predictions: right in distribution, side by side or one by one, never from a prior by mistake."""

import numpy as np
import pytest
import torch

import varigrad as vg
from varigrad import distributions as dist
from varigrad.errors import (
    ConstraintError,
    GuideMismatchError,
    ParameterError,
    PlateError,
    ShapeError,
    SiteError,
    SupportError,
    VarigradError,
)
from varigrad.guides import AutoMultivariateNormal, AutoNormal

t = torch.tensor
DATA = torch.tensor([1.0, 2.0, 4.0])
MODES = pytest.mark.parametrize("vectorize", [None, True, False])


def model(data=None, size=3):
    scale = vg.sample("scale", dist.Gamma(20.0, 20.0))
    mean = vg.sample("mean", dist.Normal(0.0, 10.0))
    vg.deterministic("twice", 2 * mean)
    with vg.plate("data", size):
        vg.sample("x", dist.Normal(mean, scale), obs=data)


def seeded(seed=0):
    return dist.Source(torch.Generator().manual_seed(seed))


# What comes out


@MODES
def test_from_posterior_samples(vectorize):
    samples = {"scale": torch.full((4000,), 0.5), "mean": torch.linspace(-3, 3, 4000)}
    found = vg.Predictive(model, posterior_samples=samples, vectorize=vectorize, source=seeded())()
    assert found.keys() == {"twice", "x"}
    assert found["x"].shape == (4000, 3)
    assert torch.equal(found["twice"], 2 * samples["mean"])
    noise = found["x"] - samples["mean"].unsqueeze(-1)
    assert noise.std() == pytest.approx(0.5, abs=0.02)
    assert (noise[:, 0] * noise[:, 1]).mean().abs() < 0.02
    with_latent = vg.Predictive(model, posterior_samples=samples, return_sites=["mean", "x*"], vectorize=vectorize)()
    assert torch.equal(with_latent["mean"], samples["mean"])


def test_predictions_of_a_program_that_asserts_its_shapes_are_made_one_by_one():
    def asserting():
        mean = vg.sample("mean", dist.Normal(0.0, 1.0))
        assert mean.shape == ()
        vg.deterministic("twice", 2 * mean)

    samples = {"mean": torch.arange(5.0)}
    assert torch.equal(vg.Predictive(asserting, posterior_samples=samples)()["twice"], 2 * samples["mean"])
    with pytest.raises(VarigradError, match="cannot run predictions side by side"):
        vg.Predictive(asserting, posterior_samples=samples, vectorize=True)()


@MODES
@pytest.mark.parametrize("kind", [AutoNormal, AutoMultivariateNormal])
def test_from_a_fit(vectorize, kind):
    guide = kind(model, DATA)
    fit = vg.SVI(model, guide, vg.optim.Adam(lr=0.05), seed=0).run(400, DATA)
    found = fit.predict(300, vectorize=vectorize, size=5)
    assert found.keys() == {"twice", "x"}
    assert found["x"].shape == (300, 5)
    assert found["x"].mean() == pytest.approx(7 / 3, abs=0.4)
    assert fit.predict(5, return_sites="mean")["mean"].shape == (5,)


@MODES
def test_from_the_prior(vectorize):
    found = vg.Predictive(model, num_samples=2000, vectorize=vectorize, source=seeded())()
    assert found.keys() == {"scale", "mean", "twice", "x"}
    assert found["x"].shape == (2000, 3)
    assert found["mean"].std() == pytest.approx(10.0, rel=0.1)


def test_seeds_repeat_and_modes_agree_in_law():
    draw = lambda vectorize, seed: vg.Predictive(  # noqa: E731
        model, num_samples=3000, vectorize=vectorize, source=seeded(seed)
    )()["x"]
    assert torch.equal(draw(None, 3), draw(True, 3))
    assert torch.equal(draw(False, 3), draw(False, 3))
    assert draw(True, 1).std() == pytest.approx(draw(False, 2).std().item(), rel=0.1)


@MODES
def test_parameters_come_from_their_owner(vectorize):
    def program(data=None):
        z = vg.sample("z", dist.Normal(vg.param("m", 5.0), 0.01))
        vg.sample("x", dist.Normal(z, 0.01), obs=data)

    def guide(data=None):
        vg.sample("z", dist.Normal(vg.param("q", 7.0), 0.01))

    bound = vg.ELBO()(program, guide)
    found = vg.Predictive(program, guide, num_samples=10, owner=bound, vectorize=vectorize)()
    assert (found["x"] - 7).abs().max() < 0.2
    with pytest.raises(ParameterError, match=r"'q': is a parameter, and there is no value for it.*owner=fit.bound"):
        vg.Predictive(program, guide, num_samples=10)()
    with torch.no_grad():
        bound.q.fill_(9.0)
    assert (vg.Predictive(program, guide, num_samples=10, owner=bound)()["x"] - 9).abs().max() < 0.2


@MODES
def test_plates_events_and_nesting(vectorize):
    def nested():
        with vg.plate("rows", 2, dim=-2):
            a = vg.sample("a", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            with vg.plate("columns", 4, dim=-1):
                b = vg.sample("b", dist.Normal(a.sum(-1), 1.0))
        vg.deterministic("table", b)
        vg.sample("w", dist.Dirichlet(b.exp().squeeze(-1)[..., 0, :3].clamp(1, 2)) if b.dim() == 2 else _wide(b))

    def _wide(b):
        return dist.Dirichlet(b.exp()[..., 0, :3].clamp(1, 2).unsqueeze(-2).unsqueeze(-2))

    samples = {"a": torch.randn(7, 2, 1, 3)}
    found = vg.Predictive(nested, posterior_samples=samples, vectorize=vectorize)()
    assert found["b"].shape == (7, 2, 4) and found["w"].shape == (7, 3)
    assert torch.equal(found["table"], found["b"])


def test_programs_that_do_not_broadcast_are_looped():
    def mixing():
        with vg.plate("data", 3):
            z = vg.sample("z", dist.Normal(0.0, 1.0))
        vg.sample("x", dist.Normal(z.sum(), 0.001))

    z = torch.randn(5, 3)
    found = vg.Predictive(mixing, posterior_samples={"z": z})()
    assert torch.allclose(found["x"], z.sum(-1), atol=0.01)
    with pytest.raises(VarigradError, match="cannot run predictions side by side: 'x' mixes predictions"):
        vg.Predictive(mixing, posterior_samples={"z": z}, vectorize=True)()

    def computing():
        z = vg.sample("z", dist.Normal(0.0, 1.0))
        vg.deterministic("rank", (z > z.mean()).float())

    samples = {"z": torch.randn(6)}
    assert torch.equal(vg.Predictive(computing, posterior_samples=samples)()["rank"], torch.zeros(6))

    def branching():
        if vg.sample("z", dist.Normal(0.0, 1.0)) > 0:
            vg.sample("y", dist.Normal(0.0, 1.0))
        vg.sample("x", dist.Normal(0.0, 1.0))

    with pytest.raises(SiteError, match="'y': is not there in prediction"):
        vg.Predictive(branching, num_samples=20, return_sites=["y"], source=seeded(2))()


@MODES
def test_minibatches_are_the_same_for_guide_model_and_all_predictions(vectorize):
    seen = []

    def local():
        with vg.plate("data", 6, subsample_size=2) as indices:
            seen.append(indices.tolist())
            z = vg.sample("z", dist.Normal(torch.arange(6.0)[indices] * 100, 1.0))
            vg.sample("x", dist.Normal(z, 1.0))

    def guide():
        with vg.plate("data", 6, subsample_size=2) as indices:
            vg.sample("z", dist.Normal(torch.arange(6.0)[indices] * 100, 0.1))

    found = vg.Predictive(local, guide, num_samples=4, vectorize=vectorize)()["x"]
    assert all(indices == seen[-1] for indices in seen)
    assert torch.allclose(found, t(seen[-1]) * 100.0, atol=6)
    full = {"z": torch.arange(6.0).mul(100).expand(4, 6)}
    found = vg.Predictive(local, posterior_samples=full, vectorize=vectorize)()["x"]
    assert torch.allclose(found, t(seen[-1]) * 100.0, atol=6)
    with pytest.raises(PlateError, match=r"'data': posterior samples of 'z' are of 2 of its 6 elements, and not known"):
        vg.Predictive(local, posterior_samples={"z": torch.zeros(4, 2)}, vectorize=vectorize)()


def test_conditioned_models():
    conditioned = vg.handlers.condition(model, {"mean": t(3.0), "scale": t(0.01)})
    found = vg.Predictive(conditioned, num_samples=5)()
    assert found.keys() == {"twice", "x"} and (found["x"] - 3).abs().max() < 0.1
    again = vg.handlers.uncondition(lambda: model(DATA))
    samples = {"scale": torch.full((8,), 0.01), "mean": torch.full((8,), 50.0)}
    assert (vg.Predictive(again, posterior_samples=samples)()["x"] - 50).abs().max() < 0.1


# Never by mistake


def test_missing_sites():
    """What is drawn from a prior though something was learnt."""
    with pytest.raises(
        GuideMismatchError,
        match=r"'mean': would be drawn from the prior; because .* posterior samples of 'scale' only.*return_sites",
    ):
        vg.Predictive(model, posterior_samples={"scale": torch.ones(3)})()
    asked = vg.Predictive(model, posterior_samples={"scale": torch.ones(3)}, return_sites=["mean", "x"])()
    assert asked.keys() == {"mean", "x"}
    assert vg.Predictive(model, posterior_samples={"scale": torch.ones(3)}, strict=False)().keys() > {"mean"}
    with pytest.raises(GuideMismatchError, match="'scale': would be drawn from the prior, and so would 'mean'"):
        vg.Predictive(
            lambda: (vg.sample("k", dist.Normal(0.0, 1.0)), model()), posterior_samples={"k": torch.ones(3)}
        )()

    def hierarchy():
        top = vg.sample("top", dist.Normal(0.0, 1.0))
        new = vg.sample("new", dist.Normal(top, 1.0))  # a prediction: it depends on what was learnt
        vg.sample("x", dist.Normal(new, 1.0))

    assert vg.Predictive(hierarchy, posterior_samples={"top": torch.zeros(3)})().keys() == {"new", "x"}


def test_extra_sites():
    samples = {"scale": torch.ones(3), "mean": torch.ones(3)}
    with pytest.raises(GuideMismatchError, match=r"'maen': is no latent site .*'scale', 'mean'.*did you mean 'mean'"):
        vg.Predictive(model, posterior_samples={**samples, "maen": torch.ones(3)})(size=3)
    with pytest.raises(GuideMismatchError, match="'x': has posterior samples and is observed by the model"):
        vg.Predictive(model, posterior_samples={**samples, "x": torch.ones(3, 3)})(DATA)


def test_unequal_and_misshapen_samples():
    with pytest.raises(ShapeError, match=r"different numbers of draws: \{'scale': 3, 'mean': 4\}"):
        vg.Predictive(model, posterior_samples={"scale": torch.ones(3), "mean": torch.ones(4)})
    with pytest.raises(ShapeError, match=r"different numbers of draws: \{'scale': 0"):
        vg.Predictive(model, posterior_samples={"scale": t(1.0)})
    samples = {"scale": torch.ones(3), "mean": torch.ones(3, 2)}
    with pytest.raises(ShapeError, match=r"'mean': posterior samples have shape \(2,\) each, the site has \(\)"):
        vg.Predictive(model, posterior_samples=samples)()
    with pytest.raises(ShapeError, match="num_samples is 4, and there are 3 posterior samples"):
        vg.Predictive(model, posterior_samples={"scale": torch.ones(3)}, num_samples=4)


def test_other_arguments_are_checked():
    with pytest.raises(VarigradError, match="how many predictions"):
        vg.Predictive(model)
    for wrong in (0, 1.5, True):
        with pytest.raises(VarigradError, match="num_samples must be a whole number"):
            vg.Predictive(model, num_samples=wrong)
    with pytest.raises(VarigradError, match="a guide or posterior_samples, not both"):
        vg.Predictive(model, model, {"mean": torch.ones(3)})


def test_what_is_returned_is_checked():
    samples = {"scale": torch.ones(3), "mean": torch.ones(3)}
    with pytest.raises(SiteError, match="'x': is observed, so a prediction of it would be the data"):
        vg.Predictive(model, posterior_samples=samples, return_sites=["x"])(DATA)
    with pytest.raises(SiteError, match=r"'y': return_sites names it, and there is no such site"):
        vg.Predictive(model, posterior_samples=samples, return_sites=["y"])()

    def plain(data):
        vg.sample("x", dist.Normal(vg.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=data)

    with pytest.raises(SiteError, match=r"there is nothing to predict.*uncondition"):
        vg.Predictive(plain, posterior_samples={"z": torch.ones(3)})(t(1.0))


def partly_seen(x, y=None, mask=None):
    """A line whose observations are missing in part while it is fitted."""
    a = vg.sample("a", dist.Normal(0.0, 3.0))
    b = vg.sample("b", dist.Normal(0.0, 3.0))
    with vg.plate("rows", len(x)):
        return vg.sample("y", dist.Normal(a + b * x, 0.5), obs=y, obs_mask=mask)


@pytest.mark.parametrize("vectorize", [None, False])
def test_predictions_at_other_rows_after_a_fit_with_missing_data(vectorize):
    """The guide has a site for what was missing; elsewhere it has no business. Right: regression in closed form."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, generator=generator)
    y = 1.0 + 2.0 * x + 0.5 * torch.randn(40, generator=generator)
    mask = torch.arange(40) < 30
    new = torch.linspace(-2.0, 2.0, 7)
    design = torch.stack([torch.ones(30), x[:30]], 1)
    exact = torch.linalg.solve(design.T @ design / 0.25 + torch.eye(2) / 9, design.T @ y[:30] / 0.25)
    guide = vg.guides.AutoNormal(partly_seen)
    fit = vg.SVI(partly_seen, guide, vg.optim.Adam(lr=0.03), seed=0).run(1000, x, y, mask, progress=False)
    draws = vg.Predictive(partly_seen, guide, num_samples=300, owner=fit.bound, source=seeded(), vectorize=vectorize)(
        new
    )["y"]
    assert draws.shape == (300, 7)
    assert torch.allclose(draws.mean(0), exact[0] + exact[1] * new, atol=0.25)


def test_stored_draws_of_missing_values_are_left_alone_at_other_rows():
    samples = {"a": torch.ones(5), "b": torch.zeros(5), "y_unobserved": torch.zeros(5, 9)}
    found = vg.Predictive(partly_seen, posterior_samples=samples)(torch.zeros(3))
    assert found.keys() == {"y"} and found["y"].shape == (5, 3)
    wrong = {**samples, "x_unobserved": torch.zeros(5, 9)}
    with pytest.raises(GuideMismatchError, match="'x_unobserved': is no latent site of the model"):
        vg.Predictive(partly_seen, posterior_samples=wrong)(torch.zeros(3))


def test_stored_draws_of_missing_values_are_used_where_they_are_still_missing():
    samples = {"a": torch.ones(5), "b": torch.zeros(5), "y_unobserved": torch.full((5, 3), 7.0)}
    mask = torch.tensor([True, False, True])
    found = vg.Predictive(partly_seen, posterior_samples=samples)(torch.zeros(3), torch.ones(3), mask)
    assert found["y"].tolist() == [[1.0, 7.0, 1.0]] * 5
    with pytest.raises(
        ShapeError, match=r"'y_unobserved': posterior samples have shape \(3,\) each, the site has \(4,\)"
    ):
        vg.Predictive(partly_seen, posterior_samples=samples)(torch.zeros(4), torch.ones(4), torch.arange(4) > 1)


def scaled():
    b = vg.sample("b", dist.Normal(0.0, 1.0))
    s = vg.sample("s", dist.LogNormal(0.0, 1.0))
    vg.deterministic("three", 3.0)
    vg.deterministic("twice", b * 2)
    with vg.plate("rows", 2):
        vg.sample("y", dist.Normal(b, s))


@pytest.mark.parametrize("vectorize", [None, False, True])
@pytest.mark.parametrize(
    ("site", "value"), [("b", float("nan")), ("b", float("inf")), ("s", -1.0), ("s", 0.0), ("s", float("nan"))]
)
@pytest.mark.parametrize("row", [0, 2])
def test_impossible_posterior_samples_are_refused_by_their_site(site, value, row, vectorize):
    samples = {"b": torch.zeros(4), "s": torch.ones(4)}
    samples[site][row] = value
    family = {"b": "Normal", "s": "LogNormal"}[site]
    text = rf"'{site}': its posterior samples have values outside the support of {family}: {value:g}"
    with pytest.raises(SupportError, match=text):
        vg.Predictive(scaled, posterior_samples=samples, vectorize=vectorize)()


@pytest.mark.parametrize("vectorize", [None, False])
def test_a_parameter_that_posterior_samples_make_impossible_is_refused_by_its_site(vectorize):
    def model():
        z = vg.sample("z", dist.Normal(0.0, 1.0))
        vg.sample("y", dist.Poisson(z))

    with pytest.raises(ConstraintError, match=r"'y': parameter 'rate' of Poisson is -1, outside"):
        vg.Predictive(model, posterior_samples={"z": torch.tensor([1.0, -1.0])}, vectorize=vectorize)()


def test_masked_and_unchecked_values_may_be_anything():
    def model():
        with vg.plate("rows", 2):
            vg.sample("z", dist.LogNormal(0.0, 1.0).mask(torch.tensor([True, False])))
            vg.sample("w", dist.LogNormal(0.0, 1.0, validate_args=False))
        vg.sample("y", dist.Normal(0.0, 1.0))

    samples = {"z": torch.tensor([[1.0, -1.0]] * 3), "w": -torch.ones(3, 2)}
    assert vg.Predictive(model, posterior_samples=samples, return_sites=["y"])()["y"].shape == (3,)


@pytest.mark.parametrize("vectorize", [None, False, True])
def test_lists_are_posterior_samples_and_numbers_are_computed_values(vectorize):
    found = vg.Predictive(scaled, posterior_samples={"b": [1.0, 2.0, 3.0], "s": np.ones(3)}, vectorize=vectorize)()
    assert found["three"].tolist() == [3.0, 3.0, 3.0] and found["twice"].tolist() == [2.0, 4.0, 6.0]
    assert found["y"].shape == (3, 2)
    with pytest.raises(SiteError, match="'b': posterior samples must be a tensor or a number, got str"):
        vg.Predictive(scaled, posterior_samples={"b": "abc"})


def test_what_is_no_number_may_be_computed_and_not_predicted():
    def model():
        vg.sample("z", dist.Normal(0.0, 1.0))
        vg.deterministic("text", "abc")
        vg.sample("y", dist.Normal(0.0, 1.0))

    options = {"posterior_samples": {"z": torch.zeros(3)}, "strict": False}
    assert vg.Predictive(model, return_sites=["y"], **options)()["y"].shape == (3,)
    with pytest.raises(SiteError, match="'text': the value must be a tensor or a number, got str"):
        vg.Predictive(model, **options)()
