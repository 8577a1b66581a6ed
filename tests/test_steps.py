"""Operations that jump or lose their derivative: which default they lead to, and what they change by."""

import re

import pytest
import torch
import torch.nn.functional as F

import varigrad as vg
from varigrad import distributions as dist
from varigrad.estimators import Pathwise, Score

t = torch.tensor
TABLE = torch.arange(5.0)


def column(z):
    return z[..., None, None]


def pair(z, other=0.0):
    return torch.stack([z, torch.zeros_like(z) + other], -1)


def looked_up(mode):
    def look(z):
        at = torch.stack([torch.tanh(z).reshape(-1), 0 * z.reshape(-1)], -1).reshape(1, 1, -1, 2)
        return F.grid_sample(TABLE.to(z).reshape(1, 1, 1, 5), at, mode=mode, align_corners=True).reshape(z.shape)

    return look


def square(z):
    return torch.stack([pair(z, 1.0), pair(1.0 + 0 * z, 2.0)], -1)


# Functions of one number that jump, or that torch knows no derivative of.
JUMPS = {
    "atan2": lambda z: torch.atan2(z, t(-1.0).to(z)),
    "arctan2": lambda z: torch.arctan2(z, t(-1.0).to(z)),
    "atan2 of a method": lambda z: z.atan2(t(-1.0).to(z)),
    "grid_sample": looked_up("nearest"),
    "grid_sampler": lambda z: torch.grid_sampler(
        TABLE.to(z).reshape(1, 1, 1, 5),
        torch.stack([torch.tanh(z).reshape(-1), 0 * z.reshape(-1)], -1).reshape(1, 1, -1, 2), 1, 0, True,
    ).reshape(z.shape),
    "scripted grid_sampler": lambda z: SCRIPTED(
        TABLE.to(z).reshape(1, 1, 1, 5),
        torch.stack([torch.tanh(z).reshape(-1), 0 * z.reshape(-1)], -1).reshape(1, 1, -1, 2),
    ).reshape(z.shape),
    "float8": lambda z: z.to(torch.float8_e4m3fn).to(z),
    "float8 by type": lambda z: z.type(torch.float8_e5m2).to(z),
    "sign of slogdet": lambda z: torch.linalg.slogdet(column(z))[0],
    "sign of torch.slogdet": lambda z: torch.slogdet(column(z)).sign,
    "pinv with a tolerance": lambda z: torch.linalg.pinv(column(z), atol=0.5)[..., 0, 0].tanh(),
    "pinv with a relative tolerance": lambda z: torch.linalg.pinv(column(z), rtol=0.5)[..., 0, 0].tanh(),
    "pinv with a tolerance by position": lambda z: torch.linalg.pinv(column(z), 0.5)[..., 0, 0].tanh(),
    "rank": lambda z: torch.linalg.matrix_rank(column(z), atol=0.5).to(z),
    "a factor of svd": lambda z: torch.linalg.svd(column(z))[0][..., 0, 0],
    "a factor of qr": lambda z: torch.linalg.qr(square(z))[0][..., 1, 1],
    "a factor of eigh": lambda z: torch.linalg.eigh(square(z))[1][..., 0, 0],
    "nan_to_num": lambda z: torch.nan_to_num(torch.log(z), nan=3.0, neginf=-3.0).clamp(-3, 3),
    "nansum": lambda z: pair(torch.asin(z), 1.0).nansum(-1),
    "nanmean": lambda z: pair(torch.asin(z), 5.0).nanmean(-1),
    "nanmedian": lambda z: pair(torch.asin(z), 5.0).nanmedian(-1).values,
    "nanquantile": lambda z: pair(torch.asin(z), 5.0).nanquantile(0.0, -1),
    "fmax": lambda z: torch.fmax(torch.log(z) / 10, t(-5.0).to(z)),
    "fmin": lambda z: torch.fmin(torch.asin(z), t(4.0).to(z)),
    "mantissa": lambda z: torch.frexp(z)[0],
    "gumbel_softmax": lambda z: F.gumbel_softmax(pair(z), hard=True)[..., 0],
    "hinge of a target": lambda z: F.hinge_embedding_loss(0 * z + 0.5, z.relu() + 1, reduction="none"),
    "number of entries": lambda z: torch.linalg.vector_norm(pair(z.relu()), 0, dim=-1),
    "number of entries by norm": lambda z: torch.norm(pair(z.relu()), 0, dim=-1),
    "in place": lambda z: (2 * z).round_(),
    "no derivative at all": lambda z: torch.special.airy_ai(z.clamp(-3, 3)),
    "nextafter": lambda z: torch.nextafter(z, z + 1),
}  # fmt: skip
# Their continuous neighbours.
SMOOTH = {
    "bilinear": looked_up("bilinear"),
    "nearest of the table": lambda z: looked_up("nearest")(torch.zeros((), dtype=z.dtype)) * z,
    "logarithm of slogdet": lambda z: torch.linalg.slogdet(column(z.exp()))[1],
    "singular values": lambda z: torch.linalg.svd(column(z))[1][..., 0],
    "eigenvalues": lambda z: torch.linalg.eigh(square(z))[0][..., 0],
    "pinv": lambda z: torch.linalg.pinv(column(z.exp()))[..., 0, 0],
    "another precision": lambda z: z.double().to(z),
    "norm": lambda z: torch.norm(pair(z), 2, dim=-1),
    "soft gumbel_softmax": lambda z: F.softmax(pair(z), -1)[..., 0],
    "zeros after a shape": lambda z: z + torch.zeros_like(z) + z.new_ones(z.shape),
    "hinge": lambda z: F.hinge_embedding_loss(z, torch.ones(()).to(TABLE), reduction="none"),
    "median": lambda z: torch.stack([z, 0 * z, 0 * z + 0.4], -1).median(-1).values,
}


@torch.jit.script
def SCRIPTED(table, at):
    return torch.grid_sampler(table, at, 1, 0, True)


def bound_of(f, estimator=None, loc=0.2, scale=1.0):
    def model():
        vg.factor("f", f(vg.sample("z", dist.Normal(0.0, 2.0))))

    def guide():
        given = {} if estimator is None else {"estimator": estimator}
        vg.sample("z", dist.Normal(vg.param("loc", t(loc)), scale), **given)

    return vg.ELBO()(model, guide)


@pytest.mark.parametrize("name", JUMPS)
def test_what_jumps_leads_to_the_score_function(name):
    bound = bound_of(JUMPS[name])
    bound()
    assert bound.plan()["z"].estimator.startswith("Score"), name


@pytest.mark.parametrize("name", SMOOTH)
def test_what_is_continuous_keeps_pathwise_gradients(name):
    assert bound_of(SMOOTH[name]).plan()["z"].estimator == "Pathwise()"


@pytest.mark.parametrize("name", ["atan2", "grid_sample", "float8", "sign of slogdet"])
def test_pathwise_by_name_is_suspect(name):
    with pytest.warns(vg.objectives.BiasWarning):
        plan = bound_of(JUMPS[name], Pathwise()).plan()
    assert plan["z"].suspect
    assert not plan.relies_on


def over_its_size(z: torch.Tensor):
    return z / z.abs()


def layer_norm_of_two(z: torch.Tensor):
    return torch.nn.functional.layer_norm(torch.stack([z, z * 0]), [2], None, None, 0.0)[0]


def written(positive):
    """A view is written to, and with it the tensor that it looks at."""
    positive.view(-1)[0:1].sub_(5.0)
    return positive


SCRIPTED_QUOTIENT = torch.jit.script(over_its_size)


# Functions whose denominator may vanish, and functions whose denominator is known to be positive.
POLES = {
    "div": [lambda z: z / z.abs(), lambda z: 1 / z, lambda z: z / z.norm(), lambda z: z.exp() / (z.square() - 1)],
    "pow": [lambda z: z**-2, lambda z: z.square() ** -0.5],
    "rsqrt": [lambda z: (z * z).rsqrt()],
    "tan": [lambda z: z.exp().tan()],
    "digamma": [torch.digamma],
    "normalize": [lambda z: F.normalize(z.reshape(1), dim=0).sum()],
    "cosine_similarity": [lambda z: F.cosine_similarity(z.reshape(1), torch.ones(1), dim=0)],
    "linalg_inv": [lambda z: torch.linalg.inv(z.reshape(1, 1)).sum()],
}
POLES["div"] += [  # what was positive once need not be
    lambda z: 1 / z.exp().sub_(5.0), lambda z: 1 / written(z.exp()),
    lambda z: 1 / torch.stack([z.exp(), z.exp() + z]).var(0),
    lambda z: pair(z).sum() / pair(z).square().mul(z.exp()).sqrt().sum(), lambda z: z.exp() / z.abs().reshape(1)[0],
    lambda z: torch.div(z, torch.multiply(z, z)),
    SCRIPTED_QUOTIENT,
]  # fmt: skip
POLES |= {
    "reciprocal": [lambda z: torch.linalg.vector_norm(pair(z)).reciprocal()],
    "layer_norm": [
        lambda z: F.layer_norm(torch.stack([z, -z]), (2,), eps=0.0)[0],
        lambda z: torch.nn.LayerNorm(2, eps=0.0, elementwise_affine=False)(torch.stack([z, z * 0]))[0],
    ],
    "native_layer_norm": [torch.jit.script(layer_norm_of_two)],
    "group_norm": [lambda z: F.group_norm(torch.stack([z, z * 0]).reshape(1, 2), 1, eps=0.0)[0, 0]],
    "batch_norm": [
        lambda z: F.batch_norm(torch.stack([z, z * 0]).reshape(2, 1), None, None, training=True, eps=1e-20)[0, 0],
    ],
}
NO_CROSSING = {  # what never goes through zero, however unknown its sign is
    "div": [lambda z: 1 / torch.multiply(z.exp(), -1.0), lambda z: 1 / z.exp().clamp(max=-1.0)],
    "pow": [lambda z: (pair(z) + pair(z).exp()).square().sum() ** -0.5],
    "normalize": [lambda z: F.normalize(torch.stack([z, z + 1, z * 3]), dim=0).sum()],
    "layer_norm": [lambda z: F.layer_norm(torch.stack([z, z.exp(), z.cos()]), (3,), eps=0.0)[0]],
    "cosine_similarity": [lambda z: F.cosine_similarity(torch.stack([z, z.exp()]), t([1.0, 2.0]), dim=0)],
    "linalg_inv": [lambda z: torch.linalg.inv(z * torch.eye(2, dtype=torch.float64) + torch.ones(2, 2).tril(-1)).sum()],
}
AWAY = [
    lambda z: z / z.exp(), lambda z: z / (1 + z**2).sqrt(), lambda z: (F.softplus(z) + 1e-3) ** -0.5,
    lambda z: z / 3, lambda z: 1 / torch.softmax(pair(z), -1).sum(), lambda z: z.cos() / z.sigmoid(),
    lambda z: z / (z.abs() + 1), lambda z: 1 / z.clamp(min=0.5), lambda z: z.exp().reciprocal().digamma(),
    lambda z: 1 / torch.stack([z.exp(), 2 * z.sigmoid()]).mean(0), lambda z: z / z.detach(),
]  # fmt: skip


def cases(table):
    return [(name, f) for name, fs in table.items() for f in fs]


@pytest.mark.parametrize(("name", "f"), cases(POLES))
def test_a_pole_between_two_runs_is_a_jump(name, f):
    plan = bound_of(f).plan()
    assert plan["z"].estimator.startswith("Score(") and "a pole that it crosses" in plan["z"].why
    (sentence,) = plan.crossed_poles
    assert re.fullmatch(rf"z: what {name} at test_steps.py:\d+ divides by \(or takes\) .* them", sentence)
    assert sentence in str(plan) and len(plan.relies_on) == 1
    with pytest.warns(vg.objectives.BiasWarning, match="or a pole"):
        plan = bound_of(f, Pathwise()).plan()
    assert plan["z"].suspect and str(plan).splitlines()[2].endswith("suspect")


@pytest.mark.parametrize(
    ("name", "f"), [*cases(NO_CROSSING), ("div", lambda z: z / z.abs()), ("digamma", torch.digamma)]
)
def test_a_pole_that_is_not_met_is_what_the_plan_relies_on(name, f):
    plan = bound_of(f, loc=6.0, scale=0.01).plan()
    assert plan["z"].estimator == "Pathwise()" and not plan.crossed_poles
    (sentence,) = plan.relies_on[1:]
    assert re.fullmatch(
        rf"'z': {name} at test_steps.py:\d+ never divides by zero \(or reaches another pole\)", sentence
    )
    assert f"unbiased relies on: {sentence}" in str(plan)
    assert str(plan).splitlines()[2].endswith("yes")


@pytest.mark.parametrize("name", ["normalize", "layer_norm", "pow", "cosine_similarity"])
def test_parts_of_other_sizes_do_not_vanish_together(name):
    """A norm of several values is zero with probability zero, also where each of them changes its sign."""
    plan = bound_of(NO_CROSSING[name][0]).plan()
    assert plan["z"].estimator == "Pathwise()" and len(plan.relies_on) == 2


def test_a_pole_that_is_reached_later_is_found_then():
    """While the parameter moves on, at the next look; a warning says since when."""
    bound = bound_of(lambda z: 1 / z, loc=40.0, scale=0.5)
    svi = vg.SVI(bound.runs.model, bound.runs.guide, vg.optim.Adam(), bound, seed=0)
    svi.run(5)
    assert svi.bound.plan()["z"].estimator == "Pathwise()"
    with torch.no_grad():
        svi.bound.loc.fill_(0.0)
    with pytest.warns(vg.objectives.StaleCheckWarning, match="pole"):
        svi.run(8)
    assert svi.bound.plan()["z"].estimator.startswith("Score")


@pytest.mark.parametrize("f", AWAY)
def test_a_denominator_that_is_known_to_be_positive_is_not(f):
    assert len(bound_of(f).plan().relies_on) <= 1


def test_draws_of_positive_families_are_positive():
    def model():
        vg.factor("f", 1 / vg.sample("z", dist.Gamma(2.0, 1.0)))

    def guide():
        vg.sample("z", dist.LogNormal(vg.param("loc", t(0.2)), 1.0))

    assert len(vg.ELBO()(model, guide).plan().relies_on) == 1


def test_denominators_of_a_score_function_do_not_matter():
    assert len(bound_of(lambda z: 1 / z, Score()).plan().relies_on) == 1
