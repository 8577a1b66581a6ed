"""Functions with poles, under the many names that torch has for them, and functions on no list."""

import re

import pytest
import torch
from torch.nn import functional as F

import varigrad as vg
from varigrad import distributions as dist
from varigrad.errors import SiteError
from varigrad.estimators import Rebar
from varigrad.terms.continuous_functions import is_reviewed

ONE = torch.ones((), dtype=torch.float64)
COLUMN = torch.ones(1, 1, dtype=torch.float64)


def matrix(z):
    return z.reshape(1, 1)


def bound_of(f, estimator=None, loc=0.3, scale=0.8):
    def model():
        vg.factor("f", torch.sigmoid(f(vg.sample("z", dist.Normal(0 * ONE, ONE)))))

    def guide():
        given = {} if estimator is None else {"estimator": estimator}
        vg.sample("z", dist.Normal(vg.param("m", loc * ONE), scale * ONE), **given)

    return vg.ELBO()(model, guide)


CROSSED = {
    "addcdiv": lambda z: torch.addcdiv(0 * z, ONE, z),
    "addcdiv in place": lambda z: (0 * z).addcdiv_(ONE, z),
    "foreach div": lambda z: torch._foreach_div([ONE], [z])[0],
    "foreach reciprocal": lambda z: torch._foreach_reciprocal([z.exp(), z])[1],
    "float_power": lambda z: torch.float_power(z, -1),
    "a power in a tensor": lambda z: torch.pow(z, torch.tensor(-1.0)),
    "a power of zero": lambda z: torch.pow(0.0, z),
    "a power of zero by Python": lambda z: 0.0**z,
    "matrix_power": lambda z: torch.matrix_power(matrix(z), -1).sum(),
    "inv_ex": lambda z: torch.linalg.inv_ex(matrix(z))[0].sum(),
    "solve_ex": lambda z: torch.linalg.solve_ex(matrix(z), COLUMN)[0].sum(),
    "solve_triangular": lambda z: torch.linalg.solve_triangular(matrix(z), COLUMN, upper=True).sum(),
    "tensorsolve": lambda z: torch.linalg.tensorsolve(matrix(z), torch.ones(1, dtype=z.dtype)).sum(),
    "lstsq": lambda z: torch.linalg.lstsq(matrix(z), COLUMN).solution.sum(),
    "cholesky_solve": lambda z: torch.cholesky_solve(COLUMN, matrix(z)).sum() * z,
    "cosine_embedding_loss": lambda z: F.cosine_embedding_loss(pair(z), pair(ONE), torch.ones(1)),
    "polygamma": lambda z: torch.special.polygamma(2, z),
    "psi": torch.special.psi,
    "entr": lambda z: torch.special.entr(z).exp(),
    "log of what touches zero": lambda z: z * torch.exp(-0.5 * torch.log(z * z)),
    "hypot": lambda z: z / torch.hypot(z, 0 * z),
    "hypot with a constant": lambda z: z / torch.hypot(0 * ONE, z),
    "cdist": lambda z: z / torch.cdist(matrix(z), 0 * COLUMN).sum(),
    "pairwise_distance": lambda z: z / F.pairwise_distance(matrix(z), 0 * COLUMN, eps=0.0).sum(),
    "dist": lambda z: z / torch.dist(z, 0 * ONE),
    "l1_loss": lambda z: z / F.l1_loss(z, 0 * ONE),
    "mse_loss": lambda z: z / F.mse_loss(z, target=0 * ONE).sqrt(),
    "huber_loss": lambda z: z / F.huber_loss(z, 0 * ONE, reduction="none").sqrt(),
    "matrix_norm": lambda z: z / torch.linalg.matrix_norm(matrix(z)),
    "matrix_norm of one of two": lambda z: z / torch.linalg.matrix_norm(torch.stack([matrix(z), COLUMN]))[0],
    "vector_norm": lambda z: z / torch.linalg.vector_norm(pair(z)),
    "log of hypot": lambda z: z * torch.exp(-torch.log(torch.hypot(z, 0 * z))),
    "log of a distance": lambda z: z * torch.exp(-torch.log(torch.cdist(matrix(z), 0 * COLUMN)).sum()),
    "kl_div": lambda z: F.kl_div(0 * ONE, z, reduction="sum"),
}
NAMED = {
    "rms_norm": lambda z: F.rms_norm(torch.stack([z, 2 * z]), (2,), eps=1e-40).sum(),
    "what is known to be nowhere negative by nothing": lambda z: z * torch.exp(-torch.log(torch.maximum(z, -z))),
    "singular values": lambda z: z / torch.linalg.svdvals(matrix(z)).sum(),
    "a product with itself": lambda z: z * torch.exp(-torch.log(z.reshape(1) @ z.reshape(1)) / 2),
    "_weight_norm": lambda z: torch._weight_norm(matrix(z), COLUMN, 0).sum(),
}
CONTINUOUS = {
    "a norm of the root mean square": lambda z: F.rms_norm(torch.stack([z, 2 * z]), (2,)).sum(),
    "powers": lambda z: z**2 + torch.pow(F.softplus(z), -1.5) + 2.0**z + torch.pow(z, torch.tensor(2.0)),
    "matrix power": lambda z: torch.matrix_power(matrix(z), 3).sum(),
    "entropy": lambda z: torch.special.entr(torch.sigmoid(z)),
    "logarithms": lambda z: torch.log(F.softplus(z)) + torch.log1p(z * z) + torch.log(1 + z.square()),
    "distances that do not vanish": lambda z: torch.log(torch.hypot(z, ONE)) + 1 / (1 + torch.dist(z, 0 * ONE)),
    "edges of arc functions": lambda z: torch.acos(z.clamp(-1, 1)) + torch.asin(torch.sin(z)) + torch.atan(z),
    "layers": lambda z: F.layer_norm(torch.stack([z, z * 2, z**2]), (3,)).sum(),
    "convolution": lambda z: F.conv1d(z.reshape(1, 1, 1), ONE.reshape(1, 1, 1)).sum(),
    "activations": lambda z: F.gelu(z) + F.mish(z) + F.elu(z) + F.leaky_relu(z) + F.hardtanh(z) + F.softsign(z),
    "shapes": lambda z: pair(z).permute(1, 0).flip(0).unfold(0, 1, 1).sum() + z.expand(3).mean(),
    "foreach": lambda z: torch._foreach_add([z], 1.0)[0] + torch._foreach_exp([z])[0],
    "in place": lambda z: (z * 1).add_(1.0).mul_(2.0).sigmoid_(),
}  # fmt: skip


STEPS = {
    "atan2": lambda z: torch.atan2(z, z.abs()),
    "atan2 on its branch cut": lambda z: torch.atan2(0 * z + 1e-30, z),
    "angle": lambda z: torch.angle(torch.complex(z, 0 * z)),
    "where acos is no number": lambda z: torch.nan_to_num(torch.acos(2 * z)),
    "where asin is no number": lambda z: torch.nansum(torch.asin(2 * z)),
}


@pytest.mark.parametrize("f", STEPS.values(), ids=STEPS)
def test_edges_of_arc_functions_that_jump_are_steps(f):
    assert bound_of(f).plan()["z"].estimator.startswith("Score(")


def pair(z):
    return torch.stack([z, z]).reshape(1, 2)


@pytest.mark.parametrize("f", CROSSED.values(), ids=CROSSED)
def test_every_name_of_a_pole_is_one(f):
    plan = bound_of(f).plan()
    assert plan["z"].estimator.startswith("Score(") and len(plan.crossed_poles) == 1


@pytest.mark.parametrize("f", [*CROSSED.values(), *NAMED.values()], ids=[*CROSSED, *NAMED])
def test_what_may_meet_a_pole_is_what_the_plan_relies_on(f):
    plan = bound_of(f, loc=1.5, scale=1e-3).plan()
    assert plan["z"].estimator == "Pathwise()" and not plan.crossed_poles
    (sentence,) = plan.relies_on[1:]
    assert re.fullmatch(r"'z': \w+ at test_poles.py:\d+ never divides by zero \(or reaches another pole\)", sentence)


@pytest.mark.parametrize("f", CONTINUOUS.values(), ids=CONTINUOUS)
def test_what_is_continuous_needs_no_trust(f):
    plan = bound_of(f).plan()
    assert plan["z"].estimator == "Pathwise()" and len(plan.relies_on) == 1


def test_what_is_on_no_list_is_named():
    plan = bound_of(lambda z: torch.corrcoef(torch.stack([pair(z)[0], pair(ONE)[0]]))[0, 0]).plan()
    (sentence,) = plan.relies_on[1:]
    assert re.fullmatch(r"'z': \w+ at test_poles.py:\d+ has no jump", sentence)


def test_rebar_does_not_cross_a_pole():
    """Its relaxed values lie between 0 and 1, where the cost jumps."""

    def model():
        z = vg.sample("z", dist.Bernoulli(0.4 * ONE))
        vg.factor("f", (z - 0.5) / (z - 0.5).abs())

    def guide():
        vg.sample("z", dist.Bernoulli(logits=vg.param("a", 0.4 * ONE)))

    with pytest.raises(SiteError, match=r"Rebar cannot serve this site; because what div .* miss the jump there"):
        vg.ELBO(estimators={"z": Rebar(train=False)})(model, guide).init()


def test_rebar_relies_on_denominators_between_its_values():
    def model():
        z = vg.sample("z", dist.Bernoulli(0.4 * ONE))
        vg.factor("f", 1 / ((z - 0.5) * (z - 0.5)))  # zero on the way from one value to the other

    def guide():
        vg.sample("z", dist.Bernoulli(logits=vg.param("a", 0.4 * ONE)))

    plan = vg.ELBO(estimators={"z": Rebar(train=False)})(model, guide).init().plan()
    assert any("never divides by zero" in what for what in plan.relies_on)


@pytest.mark.parametrize("name", ["add", "add_", "_foreach_add_", "special_expit", "linalg_solve", "__rpow__"])
def test_names_that_are_on_the_list(name):
    assert is_reviewed(name)


@pytest.mark.parametrize("name", ["apply", "mine", "sign", "floor_", "linalg_qr", "corrcoef"])
def test_names_that_are_on_no_list(name):
    assert not is_reviewed(name)


def test_hooks_of_the_program_are_what_the_plan_relies_on():
    def tripled(z):
        y = z * 1
        y.register_hook(lambda gradient: 3 * gradient)
        return y

    plan = bound_of(tripled).plan()
    assert plan["z"].estimator == "Pathwise()"
    (sentence,) = plan.relies_on[1:]
    assert re.fullmatch(r"'z': register_hook at test_poles.py:\d+ leaves the gradient as it is", sentence)
