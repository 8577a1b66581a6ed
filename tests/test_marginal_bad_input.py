"""Sites that cannot be summed out, or are named wrongly: each is refused by name, with a remedy; never a wrong sum."""

import contextlib
import math
import re

import pytest
import torch

import varigrad as vg
from varigrad import distributions as dist
from varigrad.errors import NonFiniteError, SiteError, VarigradError

TABLE = torch.tensor([0.1, 0.5, 2.0])
THIRDS = torch.ones(3) / 3


def guide():
    vg.sample("z", dist.Normal(vg.param("m", 0.3), 1.0))


def model_of(body):
    """A model whose site z the guide has."""

    def model():
        vg.sample("z", dist.Normal(0.0, 1.0))
        body()

    return model


def bound(body, marginal=True, **options):
    return vg.ELBO(marginal=marginal, **options)(model_of(body), guide)


def choice(name="k", values=THIRDS):
    return vg.sample(name, dist.Categorical(values))


def observe(loc, data=None):
    vg.sample("x", dist.Normal(loc, 1.0), obs=torch.tensor(1.0) if data is None else data)


def in_plate(read):
    """A body whose observation reads the site of a plate by a function."""

    def body():
        with vg.plate("rows", 4):
            observe(read(choice()), torch.tensor([1.0, 2.0, 3.0, 4.0]))

    return body


def outside(read):
    """A body whose observation, outside of a plate, reads the plate's site by a function."""

    def body():
        with vg.plate("rows", 3):
            k = choice()
        observe(read(k))

    return body


def branching():
    observe(1.0 if choice() == 1 else 0.0)


def caught():
    k = choice()
    with contextlib.suppress(ZeroDivisionError):
        observe(TABLE[k])


def looping():
    for _ in range(int(choice()) + 1):
        pass
    observe(0.0)


def raw():
    k = choice()
    vg.sample("x", torch.distributions.Normal(TABLE[k], 1.0), obs=torch.tensor(1.0))


def one_hot():
    return vg.sample("k", dist.OneHotCategorical(THIRDS))


LEAVES = {
    "branch": branching,
    "int": lambda: observe(TABLE[int(choice())]),
    "item": lambda: observe(TABLE[choice().item()]),
    "tolist": lambda: observe(float(choice().tolist())),
    "numpy": lambda: observe(float(choice().numpy())),
    "a loop's end": looping,
    "a try block": caught,
    "validation of raw torch": raw,
}
MIXES = {
    "sum": in_plate(lambda k: TABLE[k].sum()),
    "sum(-1)": in_plate(lambda k: TABLE[k].sum(-1, keepdim=True)),
    "flip": in_plate(lambda k: TABLE[k.flip(-1)]),
    "roll": in_plate(lambda k: TABLE[k.roll(1, -1)]),
    "cumsum": in_plate(lambda k: TABLE[k].cumsum(-1)),
    "any": lambda: observe(torch.where((choice() == 1).any(), 1.0, 0.0)),
    "shape": in_plate(lambda k: TABLE[k] * k.shape[0]),
    "sum over values": lambda: observe((one_hot() * TABLE).sum()),
    "first dimension": lambda: observe(one_hot()[0]),
}
FAILS = {
    "index": in_plate(lambda k: TABLE[k[..., [1, 0, 3, 2]]]),
    "reshape": in_plate(lambda k: TABLE[k.reshape(4)]),
    "stack": lambda: observe(torch.stack([TABLE[choice()], TABLE[choice("l")]], -1).sum(-1)),
}
ACROSS = {
    "sum": outside(lambda k: TABLE[k].sum(-1)),
    "mean": outside(lambda k: TABLE[k].mean()),
    "first": outside(lambda k: TABLE[k[0]]),
    "last": outside(lambda k: TABLE[k[..., -1]]),
}


@pytest.mark.parametrize("body", LEAVES.values(), ids=LEAVES.keys())
def test_a_value_that_leaves_torch(body):
    with pytest.raises(
        SiteError, match=r"'k': cannot be summed out; because its value leaves torch .* Try: torch.where"
    ):
        bound(body)


@pytest.mark.parametrize("body", MIXES.values(), ids=MIXES.keys())
def test_a_program_that_has_another_density_with_all_values_at_once(body):
    with pytest.raises(
        SiteError, match=r"'k': cannot be summed out; because .* density of 'x' is another one.* Try: sum"
    ):
        bound(body)


@pytest.mark.parametrize("body", FAILS.values(), ids=FAILS.keys())
def test_a_program_that_fails_with_all_values_at_once(body):
    with pytest.raises(
        SiteError, match=r"'k': cannot be summed out; because the program does not take all of its values"
    ):
        bound(body)


@pytest.mark.parametrize("body", ACROSS.values(), ids=ACROSS.keys())
def test_a_site_read_outside_of_its_plate(body):
    with pytest.raises(
        SiteError, match=r"'x': depends on several elements of 'k' at once.* element of plate 'rows'.* Try"
    ):
        bound(body)


def test_two_elements_of_few_values_that_are_swapped():
    def body():
        with vg.plate("rows", 2):
            k = vg.sample("k", dist.Bernoulli(0.5))
            observe(k.flip(-1), torch.tensor([1.0, 2.0]))

    with pytest.raises(SiteError, match="reads elements of its plate together"):
        bound(body)


SUPPORTS = {
    "Poisson": (dist.Poisson(2.0), "Poisson does not have a finite, listed support. Try: a Categorical over"),
    "Geometric": (dist.Geometric(0.2), "Geometric does not have a finite, listed support"),
    "Normal": (dist.Normal(0.0, 1.0), "Normal does not have a finite, listed support. Try: a site of the guide"),
    "event": (dist.Bernoulli(torch.tensor([0.2, 0.3])).to_event(1), "product over its elements. Try: a plate"),
    "too many": (dist.Categorical(torch.ones(2**25)), "too many for a list"),
}


@pytest.mark.parametrize(("distribution", "message"), SUPPORTS.values(), ids=SUPPORTS.keys())
def test_a_support_that_cannot_be_listed(distribution, message):
    with pytest.raises(SiteError, match=rf"'k': cannot be summed out; because .*{re.escape(message)}"):
        bound(lambda: observe(vg.sample("k", distribution).sum(-1) * 1.0), marginal="k")


def test_an_infinite_support_is_not_meant_by_true():
    with pytest.raises(vg.errors.GuideMismatchError, match="'k': is a latent site of the model and missing"):
        bound(lambda: observe(vg.sample("k", dist.Poisson(2.0))))


def test_values_that_differ_between_elements():
    def body():
        with vg.plate("rows", 2):
            k = vg.sample("k", dist.Binomial(torch.tensor([1.0, 3.0]), 0.3))
            observe(k, torch.ones(2))

    with pytest.raises(SiteError, match="'k': cannot be summed out; because its values differ between the elements"):
        bound(body)


def test_names_that_mean_nothing_to_sum():
    def both():
        choice()
        guide()

    body = lambda: observe(TABLE[choice()])  # noqa: E731
    with pytest.raises(SiteError, match=r"'j': marginal names it, and there is no such site.* Try: the site's name"):
        bound(body, marginal=("k", "j"))
    with pytest.raises(SiteError, match=r"'k': is named in marginal= and a site of the guide.* Try: .*Enumerate"):
        vg.ELBO(marginal="k")(model_of(body), both)
    with pytest.raises(SiteError, match=r"'k': is named in marginal= and observed.* Try: marginal= without it"):
        bound(lambda: observe(TABLE[vg.sample("k", dist.Categorical(THIRDS), obs=torch.tensor(1))]), marginal="k")
    with pytest.raises(VarigradError, match=r"marginal must be True or name sites.* got 3. Try: marginal="):
        vg.ELBO(marginal=3)
    plain = bound(lambda: observe(0.5), marginal=False)
    torch.manual_seed(0)
    wanted = plain()
    nothing = bound(lambda: observe(0.5))
    torch.manual_seed(0)
    assert torch.equal(nothing(), wanted)


def test_without_marginal_the_error_offers_it():
    with pytest.raises(vg.errors.GuideMismatchError, match=r"'k': .*missing from the guide.*ELBO\(marginal='k'\)"):
        bound(lambda: observe(TABLE[choice()]), marginal=False)


def test_tables_that_are_too_large_are_refused_before_they_are_made():
    def together(count, values):
        return lambda: observe(sum(choice(f"k{i}", torch.ones(values)) * 1.0 for i in range(count)))

    with pytest.raises(
        SiteError, match=r"'k\d': summing it out needs a table of 2.19e\+10 entries; because .*k3 \(30\).* Try"
    ):
        bound(together(7, 30))
    with pytest.raises(SiteError, match=r"'k\d+': is read together with 29 other sites.*Try"):
        bound(together(30, 2))

    def clique():  # no statement reads more than two, and all of them have to be summed jointly
        sites = [choice(f"k{i}", torch.ones(40)) for i in range(8)]
        for i, one in enumerate(sites):
            for j, other in enumerate(sites[:i]):
                vg.factor(f"f{i}{j}", torch.cos(one * other * 1.0))

    with pytest.raises(
        SiteError, match=r"'k\d': summing it out needs a table of .* entries; because these sites .* Try"
    ):
        bound(clique)


def test_plates_whose_elements_are_coupled():
    def body():
        with vg.plate("rows", 2, dim=-1):
            k = vg.sample("k", dist.Bernoulli(0.5))
        with vg.plate("columns", 2, dim=-2):
            j = vg.sample("j", dist.Bernoulli(0.5))
        with vg.plate("columns", 2, dim=-2), vg.plate("rows", 2, dim=-1):
            observe(k + j, torch.ones(2, 2))

    for options in ({}, {"particles": 3, "vectorize": True}, {"particles": 3}):
        with pytest.raises(
            SiteError, match=r"cannot be summed out with the others; because .*'x' couple.* Try: a guide"
        ):
            bound(body, **options)


def test_densities_that_are_scaled_in_different_ways():
    def one(scale):
        def body():
            k = choice()
            with vg.handlers.scale(scale=scale):
                observe(TABLE[k])

        return body

    def by_element():
        with vg.handlers.scale(scale=torch.tensor([1.0, 2.0])):
            k = choice()
            with vg.plate("rows", 2):
                observe(TABLE[k], torch.ones(2))

    for scale in (2.0, torch.tensor(2.0)):
        with pytest.raises(SiteError, match=r"'x': is scaled in another way than 'k'.* Try: one scale around both"):
            bound(one(scale))
    with pytest.raises(SiteError, match=r"'k': is scaled in another way from element to element.* Try: one scale"):
        bound(by_element)


def test_weights_that_differ_inside_one_sum():
    body = lambda: observe(TABLE[choice()])  # noqa: E731
    with pytest.raises(SiteError, match=r"'x': has another weight than 'k'.* Try: one pattern"):
        bound(body, weights={"x": 0.5})
    torch.manual_seed(0)
    one = bound(body, weights={"k": 0.5, "x": 1.0 / 2.0})()
    torch.manual_seed(0)
    assert torch.equal(bound(body, weights={"[kx]": 0.5})(), one)


def test_a_divergence_in_closed_form_of_a_site_below_a_sum():
    def model():
        k = choice()
        vg.sample("z", dist.Normal(TABLE[k], 1.0))

    with pytest.raises(
        SiteError, match=r"'z': has no divergence in closed form here; because .* site that is summed out"
    ):
        vg.ELBO(marginal="k", analytic_kl=["z"])(model, guide)
    torch.manual_seed(0)
    wanted = vg.ELBO(marginal="k")(model, guide)()
    torch.manual_seed(0)
    assert torch.equal(vg.ELBO(marginal="k", analytic_kl=True)(model, guide)(), wanted)


def impossible(kind):
    """Programs with probabilities of zero, and their bound up to what z contributes."""
    weights = vg.param("w", torch.tensor([0.25, 0.75, 0.0], dtype=torch.float64))
    table = vg.param("t", TABLE.double())
    log_weights = torch.where(weights > 0, weights, 1.0).log() + torch.where(weights > 0, 0.0, -math.inf)
    if kind == "prior":
        k = vg.sample("k", dist.Categorical(logits=log_weights))
        vg.factor("f", table[k])
    elif kind == "transition":
        k = choice()
        rows = torch.stack([log_weights, log_weights.flip(0), log_weights.roll(1)])
        j = vg.sample("j", dist.Categorical(logits=rows[k]))
        vg.factor("f", table[j])
    else:
        k = choice()
        vg.factor("f", torch.where(k == 2, -math.inf, table[k]))


@pytest.mark.parametrize("kind", ["prior", "transition", "factor"])
def test_probabilities_of_zero_have_finite_values_and_gradients(kind):
    made = bound(lambda: impossible(kind))
    loss = made()
    assert bool(loss.isfinite())
    for gradient in torch.autograd.grad(loss, list(made.parameters()), allow_unused=True):
        assert gradient is None or bool(gradient.isfinite().all())


def test_a_sum_without_any_possible_value():
    made = bound(lambda: vg.factor("f", -math.inf + vg.param("t", TABLE)[choice()]))
    estimate = made.estimate()
    assert float(estimate.value) == -math.inf
    for gradient in torch.autograd.grad(estimate.surrogate, list(made.parameters()), allow_unused=True):
        assert gradient is None or not bool(gradient.isnan().any())


def test_an_impossible_observation_is_named_with_its_row():
    def body():
        with vg.plate("rows", 3):
            k = choice()
            observe(TABLE[k], torch.tensor([0.0, 1e30, 0.0]))  # the square is infinite

    svi = vg.SVI(model_of(body), guide, vg.optim.Adam(0.1), vg.ELBO(marginal="k"))
    wanted = r"loss is inf; because the model's log-density of site 'x' is -inf at index \(1,\) .* all values of 'k'"
    with pytest.raises(NonFiniteError, match=wanted):
        svi.step()


def test_statements_that_are_possible_only_one_by_one():
    def body():
        k = choice()
        vg.factor("f", torch.where(k == 0, 0.0, -math.inf))
        vg.factor("g", torch.where(k == 1, 0.0, -math.inf))

    svi = vg.SVI(model_of(body), guide, vg.optim.Adam(0.1), vg.ELBO(marginal="k"))
    with pytest.raises(NonFiniteError, match="of 'k', 'f', 'g' together is not finite for all values of 'k'"):
        svi.step()


def test_minibatches_under_a_sum_are_warned_about():
    def body():
        k = choice()
        with vg.plate("rows", 6, subsample_size=2):
            observe(TABLE[k], torch.ones(2))

    with pytest.warns(vg.objectives.BiasWarning, match="k: summed out outside of plate 'rows', of which a minibatch"):
        bound(body)
