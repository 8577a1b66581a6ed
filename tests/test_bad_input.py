# ruff: noqa: E501 - one mistake a line
"""Every mistake has one clear error, at the earliest moment: its class, its site, its text.

What a compiled step makes of bad input is in `test_compiled_bad_input.py`, and `Predictive` in `test_predictive.py`.
"""

import subprocess
import sys
import warnings
from functools import partial

import numpy as np
import pytest
import torch

import varigrad as vg
from varigrad import distributions as dist
from varigrad.errors import (
    ArgumentError,
    BaselineError,
    ConstraintError,
    GuideMismatchError,
    NonFiniteError,
    ParameterError,
    PlateError,
    ShapeError,
    SiteError,
    SiteNameError,
    SupportError,
    VarigradError,
)
from varigrad.estimators import (
    DisARM,
    Enumerate,
    LeaveOneOut,
    MovingAverage,
    NeuralBaseline,
    Pathwise,
    Score,
    ValueBaseline,
)
from varigrad.inference.eager_step import GradientWarning
from varigrad.objectives.bound import BiasWarning
from varigrad.objectives.checks.pairs import SupportWarning

nan, inf = float("nan"), float("inf")
positive = dist.constraints.positive


def latent(*args, name="z", distribution=None, **options):
    """One site."""
    vg.sample(name, dist.Normal(0.0, 1.0) if distribution is None else distribution, **options)


def guide(*args, name="z", **options):
    vg.sample(name, dist.Normal(vg.param("m", 0.0), vg.param("s", 1.0, positive)), **options)


def observing(distribution, obs, **options):
    """A model with latent z and one observed site x."""

    def model():
        latent()
        vg.sample("x", distribution, obs=obs, **options)

    return model


def inside(program, *plates):
    """The program inside plates (name, size, ...)."""

    def wrapped(*args):
        with_plates(plates, program)

    return wrapped


def with_plates(plates, program):
    if not plates:
        return program()
    with vg.plate(*plates[0]):
        return with_plates(plates[1:], program)


def after(*programs):
    return lambda *args: [p() for p in programs][-1] and None


def step(model=latent, guide=guide, *args, optim=None, steps=1, **options):
    svi = vg.SVI(model, guide, optim or vg.optim.Adam(lr=0.1), vg.ELBO(**options), seed=0)
    return [svi.step(*args) for _ in range(steps)]


def pair(distribution, prior=None, **options):
    """Step with this distribution in the guide (its first argument a parameter) and in the model."""
    family, start = distribution
    prior = family(start) if prior is None else prior
    return step(
        partial(latent, distribution=prior),
        lambda: vg.sample("z", family(vg.param("a", start)), **options),
    )


def normal_observed(value):
    return observing(dist.Normal(torch.zeros(3), 1.0).to_event(1), torch.tensor(value))


CASES = {}


def case(error, match, site=None):
    def register(function):
        CASES[function.__name__] = error, match, site, function
        return function

    return register


def simple(label, error, match, site, function, /, *args, **options):
    CASES[label] = error, match, site, partial(function, *args, **options)


# Observations: NaN, infinite, outside the support.
for label, value in {"nan": [0.0, nan, 1.0], "inf": [0.0, 1.0, -inf]}.items():
    index = 1 if label == "nan" else 2
    text = rf"'x': the observation has 1 of 1 values outside the support of Independent, the first at index \(\): .*{value[index]}"
    simple(f"observation_{label}", SupportError, text, "x", step, normal_observed(value))
in_plate = partial(vg.sample, "x", dist.Bernoulli(0.3), obs=torch.tensor([1.0, 0.0, 2.0, 3.0]))
simple("observation_outside_support", SupportError, r"has 2 of 4 values outside the support of Bernoulli, the first at index \(2,\): 2.*Try: clean data, or mask=", "x", step, after(latent, inside(in_plate, ("d", 4))))  # fmt: skip
simple("observation_fraction_of_count", SupportError, "outside the support of Poisson", "x", step, observing(dist.Poisson(2.0), 0.5))  # fmt: skip
simple("observation_of_wrong_dtype", SiteError, r"'x': Bernoulli.log_prob failed on a value of shape \(\) and dtype torch.int64.*Try: data.float\(\)", "x", step, observing(dist.Bernoulli(0.3), torch.tensor(1)))  # fmt: skip
simple("observation_on_another_device", SiteError, r"'x': its distribution is on cpu \(parameter of shape \(3,\)\), its value on meta", "x", step, observing(dist.Normal(torch.zeros(3), 1.0).to_event(1), torch.zeros(3, device="meta")))  # fmt: skip

# Parameters of distributions, and values of parameters.
for label, bad in {"nan": nan, "inf": inf, "negative": -1.0, "zero": 0.0}.items():
    simple(f"scale_{label}", ConstraintError, f"'z': parameter 'scale' of Normal is {bad:g}, outside", "z", step, partial(latent, distribution=dist.Normal(0.0, bad)))  # fmt: skip
simple("loc_nan_inside_to_event", ConstraintError, "'z': parameter 'loc' of Normal is nan", "z", step, partial(latent, distribution=dist.Normal(torch.tensor([0.0, nan]), 1.0).to_event(1)), lambda: vg.sample("z", dist.Normal(vg.param("m", torch.zeros(2)), 1.0).to_event(1)))  # fmt: skip


def with_param(*args, **options):
    return step(latent, lambda: vg.sample("z", dist.Normal(vg.param("m", *args, **options), 1.0)))


simple("init_outside", ConstraintError, r"'m': the initial value -1.0 is outside its constraint", "m", with_param, -1.0, positive)  # fmt: skip
simple("init_on_the_edge", ConstraintError, "'m': the initial value 0.0 is on the edge of its constraint", "m", with_param, 0.0, dist.constraints.nonnegative)  # fmt: skip
simple("init_on_the_edge_of_an_interval", ConstraintError, "'m': the initial value 1.0 is on the edge of its constraint", "m", with_param, 1.0, dist.constraints.unit_interval)  # fmt: skip
simple("init_nan", ConstraintError, "'m': the initial value is NaN or infinite", "m", with_param, nan)
simple("init_missing", ParameterError, r"'m': has no initial value.*Try: param\(name, init_value\)", "m", with_param)
simple("init_text", ParameterError, "'m': an initial value must be a tensor or a number, got str", "m", with_param, "0")
simple("init_int_tensor", ParameterError, "'m': a parameter must be real and floating point, got torch.int64.*init.float", "m", with_param, torch.tensor(1))  # fmt: skip
simple("init_complex", ParameterError, "'m': a parameter must be real and floating point, got torch.complex64", "m", with_param, torch.tensor(1j))  # fmt: skip
simple("param_name_reserved", ParameterError, "'baselines.m': names that start with 'baselines' belong", "baselines.m", lambda: step(guide=after(lambda: vg.param("baselines.m", 0.0), guide)))  # fmt: skip
simple("param_other_shape", ParameterError, r"'m': is declared with shape \(\), and was before with \(2,\)", "m", lambda: step(guide=after(lambda: vg.param("m", torch.zeros(2)), guide)))  # fmt: skip
simple("param_other_shape_in_model", ParameterError, r"'m': is declared with shape \(2,\), and was before with \(\)", "m", lambda: step(after(lambda: vg.param("m", torch.zeros(2)), latent)))  # fmt: skip
simple("param_other_constraint", ParameterError, r"'s': is declared with constraint .*, and was before with Real", "s", lambda: step(guide=after(lambda: vg.param("s", 1.0), guide)))  # fmt: skip
simple("param_and_site_share_a_name", SiteNameError, "'m': is the name of a param and of a sample", "m", lambda: step(partial(latent, name="m"), partial(guide, name="m")))  # fmt: skip
simple("module_of_wrong_type", SiteError, "'net': module needs a torch.nn.Module, got function", "net", lambda: vg.module("net", lambda x: x))  # fmt: skip
simple("module_new_each_run", ParameterError, "'net': is another module object than the one declared before.*once, outside", "net", lambda: step(guide=after(lambda: vg.module("net", torch.nn.Linear(1, 1)), guide), steps=2))  # fmt: skip

# Names.
simple("name_used_twice", SiteNameError, r"'z': is used twice in one run.*z_\{i\}", "z", step, after(latent, latent))
simple("name_used_twice_in_guide", SiteNameError, "'z': is used twice in one run", "z", step, latent, after(guide, guide))  # fmt: skip
simple("deterministic_used_twice", SiteNameError, "'z': is used twice", "z", step, after(latent, partial(vg.deterministic, "z", 1.0)))  # fmt: skip
simple("factor_used_twice", SiteNameError, "'z': is used twice", "z", step, after(latent, partial(vg.factor, "z", 1.0)))
simple("twice_in_a_trace", SiteNameError, "'z': is used twice", "z", lambda: vg.handlers.trace(after(latent, latent))())
for label, name in {"none": None, "empty": "", "number": 3}.items():
    simple(f"name_{label}", SiteNameError, "a name is a non-empty string, got", None, latent, name=name)
simple("name_with_glob", SiteNameError, r"'z\*': contains one of \* \? \[ \]", "z*", latent, name="z*")
simple("plate_and_site_share_a_name", SiteNameError, "'z': is the name of a subsampled plate and of a site", "z", lambda: step(inside(latent, ("z", 4, 2)), inside(guide, ("z", 4, 2))))  # fmt: skip

# Model and guide have different sites.
simple("missing_in_guide", GuideMismatchError, r"'z': is a latent site of the model and missing from the guide; because the guide's sites are 'zz' \(did you mean 'zz'\?\)", "z", step, latent, partial(guide, name="zz"))  # fmt: skip
simple("missing_in_model", GuideMismatchError, r"'rate_1': is a site of the guide and not of the model.*did you mean 'rate'\?", "rate_1", step, partial(latent, name="rate"), after(partial(guide, name="rate"), partial(latent, name="rate_1")))  # fmt: skip
simple("guide_empty", GuideMismatchError, "missing from the guide; because the guide's sites: there are none", "z", step, latent, lambda: None)  # fmt: skip
simple("observed_in_guide", SiteError, "'z': is observed in the guide.*an argument of the guide", "z", step, latent, partial(guide, obs=torch.tensor(0.0)))  # fmt: skip
simple("estimator_in_model", SiteError, "'z': has an estimator in the model; because the guide draws it", "z", step, partial(latent, estimator=Score()))  # fmt: skip
simple("estimator_and_obs", SiteError, "'z': is observed, so no estimator can act on it", "z", partial(latent, obs=torch.tensor(0.0), estimator=Score()))  # fmt: skip
simple("model_without_sites", GuideMismatchError, "the model has no sites", None, step, lambda: None, lambda: None)
simple("not_a_program", VarigradError, "the model must be a callable program, got int", None, step, 3)


@case(
    ArgumentError, r"the guide does not accept the arguments it is called with: too many positional.*signature is \(\)"
)
def guide_does_not_take_the_data():
    step(lambda data: latent(), lambda: guide(), torch.ones(3))


@case(
    ArgumentError, r"the model does not accept the arguments it is called with: got an unexpected keyword argument 'n'"
)
def model_does_not_take_a_keyword():
    vg.SVI(lambda data: latent(), guide, vg.optim.Adam(), seed=0).step(data=1, n=2)


@case(ArgumentError, "the guide does not accept the arguments it is called with: too many positional")
def guide_does_not_take_what_a_later_step_gives():
    svi = vg.SVI(latent, lambda data=None: guide(), vg.optim.Adam(), seed=0)
    svi.step(1)
    svi.step(1, 2)


@case(ArgumentError, r"the guide does not accept the arguments .*signature is \(\)")
def guide_inside_a_handler_does_not_take_the_data():
    step(lambda data: latent(), vg.handlers.scale(lambda: guide(), scale=1.0), torch.ones(3))


@case(SupportError, "'x': the observation has 1 of 1 values outside the support of Normal", "x")
def a_plan_checks_like_a_first_step():
    def model(data):
        latent()
        vg.sample("x", dist.Normal(0.0, 1.0), obs=data)

    vg.SVI(model, guide, vg.optim.Adam()).plan(torch.tensor(nan))


# Shapes.
wide = dist.Normal(torch.zeros(4), 1.0)
simple("data_does_not_fit_plate", PlateError, "'d': site 'x' has size 4 at dim -1, the plate has 3", "d", step, after(latent, inside(partial(vg.sample, "x", dist.Normal(0.0, 1.0), obs=torch.zeros(4)), ("d", 3))))  # fmt: skip
simple("parameters_do_not_fit_plate", PlateError, "'d': site 'x' has size 4 at dim -1, the plate has 3", "d", step, after(latent, inside(partial(vg.sample, "x", wide, obs=torch.zeros(3)), ("d", 3))))  # fmt: skip
simple("latent_does_not_fit_plate", PlateError, r"'z': Normal has batch shape \(4,\), its plates are 'd' \(3 at dim -1\)", "z", step, inside(partial(latent, distribution=wide), ("d", 3)), inside(partial(latent, distribution=wide), ("d", 3)))  # fmt: skip
simple("data_does_not_fit_parameters", ShapeError, r"'x': its value has batch shape \(3,\), its distribution \(4,\)\nprogram", "x", step, after(latent, inside(partial(vg.sample, "x", wide, obs=torch.zeros(3)), ("d", None))))  # fmt: skip
simple("undeclared_batch_observed", ShapeError, r"'x': log-density has shape \(4,\), and dim -1 \(size 4\) belongs to no plate.*Try: with plate\(name, 4, dim=-1\), or .to_event", "x", step, observing(dist.Normal(0.0, 1.0), torch.zeros(4)))  # fmt: skip
simple("undeclared_batch_left_of_plate", ShapeError, r"'x': .*dim -2 \(size 2\) belongs to no plate", "x", step, after(latent, inside(partial(vg.sample, "x", wide, obs=torch.zeros(2, 4)), ("d", 4))))  # fmt: skip
simple("undeclared_batch_latent", ShapeError, r"'z': .*dim -1 \(size 4\) belongs to no plate", "z", step, partial(latent, distribution=wide), partial(latent, distribution=wide))  # fmt: skip
simple("undeclared_batch_factor", ShapeError, r"'f': .*dim -1 \(size 4\) belongs to no plate", "f", step, after(latent, partial(vg.factor, "f", torch.zeros(4))))  # fmt: skip
simple("event_dims_disagree", ShapeError, r"'z': has event dims 0 in the guide and 1 in the model\nprogram  site", "z", step, partial(latent, distribution=wide.to_event(1)), inside(guide, ("d", 4)))  # fmt: skip
simple("event_shapes_disagree", ShapeError, r"'z': has event shape \(4,\) in the guide and \(3,\) in the model", "z", step, partial(latent, distribution=dist.Normal(torch.zeros(3), 1.0).to_event(1)), partial(latent, distribution=wide.to_event(1)))  # fmt: skip
simple("guide_without_the_plate", ShapeError, r"'z': is in plates none in the guide and \('d',\) in the model", "z", step, inside(latent, ("d", 4)), guide)  # fmt: skip
simple("model_without_the_plate", ShapeError, r"'z': is in plates \('d',\) in the guide and none in the model", "z", step, latent, inside(guide, ("d", 4)))  # fmt: skip
simple("observation_of_wrong_event", ShapeError, r"'x': the observation has shape \(4,\), the event shape is \(3,\)", "x", step, normal_observed([0.0] * 4))  # fmt: skip
simple("observation_without_event", ShapeError, r"'x': the observation has shape \(\), the event shape is \(3,\)", "x", step, normal_observed(0.0))  # fmt: skip
simple("subsample_of_a_list", ShapeError, "subsample needs a tensor, got list", None, vg.subsample, [1, 2])


@case(ShapeError, r"'x': log-density has shape \(3,\), and dim -1 belongs to no plate; because it was not there", "x")
def undeclared_batch_at_a_later_step():
    def model(data):
        latent()
        vg.sample("x", dist.Normal(0.0, 1.0), obs=data)

    svi = vg.SVI(model, guide, vg.optim.Adam(), seed=0)
    svi.step(torch.tensor(0.0))
    svi.step(torch.zeros(3))


# Plates.
for label, size in {"zero": 0, "negative": -2, "float": 2.0, "bool": True}.items():
    simple(f"plate_size_{label}", PlateError, "'d': size must be a positive whole number, got", "d", vg.plate, "d", size)  # fmt: skip
simple("plate_without_name", PlateError, "a plate's name is a non-empty string, got 3", None, vg.plate, 3)
simple("plate_subsample_larger", PlateError, "'d': subsample_size 5 is larger than size 3", "d", vg.plate, "d", 3, 5)
simple("plate_subsample_zero", PlateError, "'d': subsample_size must be a positive whole number, got 0", "d", vg.plate, "d", 3, 0)  # fmt: skip
simple("plate_subsample_without_size", PlateError, "'d': subsample_size needs a size", "d", vg.plate, "d", None, 2)
for label, indices, text in (
    ("high", torch.tensor([0, 3]), "'d': subsample index 3 is out of range for size 3"),
    ("negative", torch.tensor([0, -1]), "'d': subsample index -1 is out of range for size 3"),
    ("float", torch.tensor([0.0]), "'d': subsample must be a non-empty 1-d int64 tensor"),
    ("list", [0, 1], "'d': subsample must be a non-empty 1-d int64 tensor"),
):
    simple(f"plate_index_{label}", PlateError, text, "d", vg.plate, "d", 3, subsample=indices)
simple("plate_index_count", PlateError, "'d': subsample has 1 indices, subsample_size says 2", "d", vg.plate, "d", 3, 2, torch.tensor([0]))  # fmt: skip
simple("plate_dim_not_negative", PlateError, "'d': dim must be a negative whole number, got 1", "d", vg.plate, "d", 3, dim=1)  # fmt: skip
simple("plate_dims_collide", PlateError, "'b': dim -1 is taken by plate 'a'", "b", inside(latent, ("a", 2, None, None, -1), ("b", 3, None, None, -1)))  # fmt: skip
simple("plate_inside_itself", PlateError, "'a': is entered twice at once", "a", inside(latent, ("a", 2), ("a", 2)))
simple("plate_loop_without_size", PlateError, "'a': a sequential plate needs a size", "a", lambda: list(vg.plate("a")))
simple("plate_sizes_disagree", PlateError, r"'d': has \(size, dim\) \(3, -1\) at site 'z' and \(4, -1\) before", "d", step, inside(latent, ("d", 3)), inside(guide, ("d", 4)))  # fmt: skip


@case(PlateError, r"'d': data of shape \(5,\) has size 5 at dim -1, the plate 4", "d")
def data_is_not_full_size():
    with vg.plate("d", 4, subsample_size=2):
        vg.subsample(torch.zeros(5))


# Supports.
halfnormal = partial(latent, distribution=dist.HalfNormal(1.0))
simple("guide_support_wider", SupportError, r"'z': the guide \(Normal\) can draw values outside the model's support \(HalfNormal\): \[-inf, inf\] against \[0, inf\]", "z", step, halfnormal, partial(latent, distribution=dist.Normal(9.0, 0.1)))  # fmt: skip
simple("guide_draws_outside", SupportError, r"'z': the guide \(Delta\) draws values outside the model's support \(HalfNormal\), such as -1", "z", step, halfnormal, partial(latent, distribution=dist.Delta(torch.tensor(-1.0))))  # fmt: skip
simple("guide_discrete_for_continuous", SupportError, "'z': of the guide's Bernoulli and the model's Normal one is discrete", "z", step, latent, partial(latent, distribution=dist.Bernoulli(0.5)))  # fmt: skip
simple("guide_more_categories", SupportError, r"can draw values outside the model's support .*\[0, 3\] against \[0, 2\]", "z", step, partial(latent, distribution=dist.Categorical(torch.ones(3))), partial(latent, distribution=dist.Categorical(torch.ones(4))))  # fmt: skip

# Estimators and their options.
categorical = lambda logits: dist.Categorical(logits=logits)  # noqa: E731
simple("sample_of_a_tensor", SiteError, "'z': sample needs a distribution, got Tensor.*Try: param for a learnable tensor, deterministic", "z", latent, distribution=torch.tensor(1.0))  # fmt: skip
simple("estimator_class", SiteError, r"'z': estimator must be an Estimator, got <class .*Try: Score\(\)", "z", pair, (categorical, torch.zeros(3)), estimator=Score)  # fmt: skip
simple("estimator_text", SiteError, "'z': estimator must be an Estimator, got 'score'; because configuration is objects", "z", pair, (categorical, torch.zeros(3)), estimator="score")  # fmt: skip
simple("estimator_dict", SiteError, r"'z': estimator must be an Estimator, got \{'baselin'", "z", pair, (categorical, torch.zeros(3)), estimator={"baselin": 1})  # fmt: skip
simple("elbo_estimator_class", VarigradError, r"estimators\['z'\] must be an Estimator.*Try: Score\(\)", None, vg.ELBO, estimators={"z": Score})  # fmt: skip
simple("elbo_estimator_unknown_site", SiteError, r"'tosess': estimators names it, and there is no such site \(did you mean 'tosses'\?\)", "tosess", step, partial(latent, name="tosses"), partial(guide, name="tosses"), estimators={"tosess": Score()})  # fmt: skip
simple("elbo_weight_unknown_site", SiteError, "'q': weights names it, and there is no such site", "q", step, weights={"q": 0.5})  # fmt: skip
simple("elbo_kl_unknown_site", SiteError, "'q': analytic_kl names it, and there is no such site", "q", step, analytic_kl=["q"])  # fmt: skip
simple("disarm_on_normal", SiteError, r"'z': DisARM cannot serve this site; because DisARM is for Bernoulli choices, and this is Normal. Try: Enumerate\(\)", "z", step, latent, partial(guide, estimator=DisARM()))  # fmt: skip
simple("enumerate_on_poisson", SiteError, "'z': Enumerate cannot serve this site; because Poisson does not have a finite, listed support. Try: Score", "z", pair, (dist.Poisson, torch.tensor(1.0)), estimator=Enumerate())  # fmt: skip
simple("enumerate_on_an_event", SiteError, "'z': Enumerate cannot serve this site; because an event of Bernoulli choices has as many values as the product over its elements. Try: a plate instead of .to_event", "z", pair, (lambda p: dist.Bernoulli(p).to_event(1), torch.full((3,), 0.4)), estimator=Enumerate())  # fmt: skip
simple("pathwise_on_categorical", SiteError, "'z': Pathwise cannot serve this site; because Categorical has no rsample", "z", pair, (categorical, torch.zeros(3)), estimator=Pathwise())  # fmt: skip
simple("pathwise_on_straight_through", SiteError, "'z': Pathwise cannot serve this site; because the rsample of a straight-through distribution is biased", "z", pair, (lambda l: dist.OneHotCategoricalStraightThrough(logits=l), torch.zeros(3)), estimator=Pathwise())  # fmt: skip
simple("leave_one_out_of_one", SiteError, r"'LeaveOneOut': k must be a whole number of at least 2, got 1.*Try: LeaveOneOut\(2\)", "LeaveOneOut", LeaveOneOut, 1)  # fmt: skip
simple("leave_one_out_of_no_particles", SiteError, r"'z': LeaveOneOut\(\) has no other particles.*ELBO\(particles=4\)", "z", pair, (categorical, torch.zeros(3)), estimator=LeaveOneOut())  # fmt: skip
simple("baseline_on_pathwise", SiteError, "'z': a baseline has no effect on a pathwise gradient; because Normal is fully rep", "z", step, latent, partial(guide, estimator=Pathwise(baseline=MovingAverage())))  # fmt: skip
simple("baseline_text", TypeError, r"baseline must be a Baseline such as MovingAverage\(\), got 'average'", None, Score, "average")  # fmt: skip
simple("baseline_decay", BaselineError, r"decay must be in \[0, 1\), got 1.5", "MovingAverage", MovingAverage, 1.5)
simple("baseline_shape", BaselineError, r"the baseline has shape \(3,\), the cost \(\)", None, pair, (categorical, torch.zeros(3)), estimator=Score(ValueBaseline(torch.zeros(3))))  # fmt: skip
simple("baseline_new_each_run", BaselineError, "'z': its network is a new object in every run", "z", lambda: step(partial(latent, distribution=categorical(torch.zeros(2))), lambda: vg.sample("z", categorical(vg.param("l", torch.zeros(2))), estimator=Score(NeuralBaseline(torch.nn.Linear(1, 1), torch.ones(1)))), steps=2))  # fmt: skip


@case(BaselineError, "'z': its baseline depends on its own draw", "z")
def baseline_sees_its_own_draw():
    own = Score(NeuralBaseline(torch.nn.Linear(1, 1), lambda values: values["z"].reshape(1)))
    pair((dist.Bernoulli, torch.tensor(0.3)), estimator=own)


@case(BaselineError, "'z': its network shares the parameter 'net.weight' with model or guide", "z")
def baseline_shares_a_parameter():
    net = torch.nn.Linear(1, 1)

    def shared():
        vg.module("net", net)
        logits = net(torch.ones(1)).squeeze()
        vg.sample("z", dist.Bernoulli(logits=logits), estimator=Score(NeuralBaseline(net, torch.ones(1))))

    step(partial(latent, distribution=dist.Bernoulli(0.3)), shared)


# Objective and SVI.
for label, particles in {"zero": 0, "negative": -1, "float": 2.0, "bool": True}.items():
    text = "particles must be a whole number of at least 1, got"
    simple(f"particles_{label}", VarigradError, text, None, vg.ELBO, particles)
    simple(f"evaluate_{label}", VarigradError, text, None, lambda p: vg.SVI(latent, guide, vg.optim.Adam()).evaluate(particles=p), particles)  # fmt: skip
for label, rate in {
    "nan": nan,
    "negative": -1e-3,
    "zero": 0.0,
    "inf": inf,
    "text": "0.1",
    "tensor": torch.tensor(nan),
}.items():
    simple(f"lr_{label}", VarigradError, "lr must be positive and finite, got", None, vg.optim.Adam, rate)
simple("lr_in_options", VarigradError, "lr must be positive and finite, got -1", None, step, optim=vg.optim.Adam(options=lambda name: {"lr": -1}))  # fmt: skip
simple("clip_norm", VarigradError, "clip_norm must be positive and finite, got 0", None, vg.optim.Adam, clip_norm=0)
simple("steps_zero", VarigradError, "steps must be a whole number of at least 1, got 0", None, lambda: vg.SVI(latent, guide, vg.optim.Adam()).run(0))  # fmt: skip
simple("loader_empty", VarigradError, "the loader is empty", None, lambda: vg.SVI(latent, guide, vg.optim.Adam()).run(1, torch.utils.data.DataLoader(torch.zeros(0, 1))))  # fmt: skip
simple("optimiser_class", VarigradError, "optim must be a configuration, got <class 'torch.optim.adam.Adam'>", None, step, optim=torch.optim.Adam)  # fmt: skip
simple("optimiser_foreign", ParameterError, "the optimiser holds parameters that are not the objective's", None, step, optim=lambda p: torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1))  # fmt: skip
simple("objective_class", VarigradError, r"objective must be an ELBO\(...\) or a bound, got <class.*Try: vg.ELBO\(\)", None, vg.SVI, latent, guide, vg.optim.Adam(), vg.ELBO)  # fmt: skip
simple("nothing_to_optimise", ParameterError, "there is nothing to optimise.*Try: param", None, step, latent, latent)
simple("step_under_no_grad", VarigradError, "a step needs gradients.*no_grad", None, torch.no_grad()(step))
simple("step_under_inference_mode", VarigradError, "a step needs gradients", None, torch.inference_mode()(step))
simple("draws_zero", VarigradError, "n must be a whole number of at least 1, got 0", None, lambda: vg.SVI(latent, guide, vg.optim.Adam()).run(1).sample(0))  # fmt: skip
simple("mask_not_bool", SiteError, r"mask must be a bool tensor, got torch.float32. Try: mask.bool\(\)", None, vg.handlers.mask, latent, mask=torch.ones(2))  # fmt: skip
simple("scale_handler_negative", SiteError, "scale must be a tensor or a finite number of at least 0, got -1", None, vg.handlers.scale, latent, scale=-1.0)  # fmt: skip
simple("obs_mask_without_obs", SiteError, "'z': obs_mask needs obs", "z", latent, obs_mask=torch.tensor(True))
simple("obs_mask_not_bool", SiteError, "'z': obs_mask must be a bool tensor", "z", latent, obs=torch.zeros(()), obs_mask=torch.ones(()))  # fmt: skip


MASKED = np.ma.array([1.0, 2.0, 3.0], mask=[False, True, False])
LOST = "is a masked array of numpy with 1 masked elements; because a tensor has no mask.*Try: obs=.* obs_mask="
simple("observation_masked_by_numpy", SiteError, f"'x': obs {LOST}", "x", lambda: observing(dist.Normal(torch.zeros(3), 1.0).to_event(1), MASKED)())  # fmt: skip
simple("observation_masked_twice", SiteError, f"obs {LOST}", "z_observed", lambda: latent(dist.Normal(torch.zeros(3), 1.0).to_event(1), obs=MASKED, obs_mask=torch.tensor(True)))  # fmt: skip
simple("factor_masked_by_numpy", SiteError, f"'f': log_factor {LOST}", "f", vg.factor, "f", MASKED)
simple("subsample_masked_by_numpy", SiteError, f"what subsample is given {LOST}", None, vg.subsample, MASKED)
simple("param_masked_by_numpy", SiteError, f"'p': the initial value {LOST}", "p", lambda: step(latent, lambda: vg.sample("z", dist.Normal(vg.param("p", MASKED).sum(), 1.0))))  # fmt: skip
simple("posterior_samples_masked_by_numpy", SiteError, f"'z': posterior samples {LOST}", "z", vg.Predictive, latent, posterior_samples={"z": MASKED})  # fmt: skip


for label, number in {"true": True, "float": 5.0, "numpy_bool": np.bool_(True), "bool_tensor": torch.tensor(True), "vector": torch.tensor([5]), "numpy_vector": np.array([5]), "float_tensor": torch.tensor(5.0)}.items():  # fmt: skip
    simple(f"steps_{label}", VarigradError, "steps must be a whole number of at least 1, got", None, lambda number=number: vg.SVI(latent, guide, vg.optim.Adam()).run(number))  # fmt: skip
    simple(f"plate_size_{label}", PlateError, "'a': size must be a positive whole number, got", "a", vg.plate, "a", number)  # fmt: skip


simple("compare_a_list", VarigradError, r"estimators must be a dictionary of lists by site, got list\. Try: \{", None, lambda: vg.compare(latent, guide, (), [Score()]))  # fmt: skip
DENSE = partial(observing, dist.Normal(torch.zeros(3), 1.0).to_event(1))
simple("observation_sparse", SiteError, r"'x': obs is a sparse tensor \(torch.sparse_coo\).*Try: obs.to_dense\(\)", "x", step, DENSE(torch.ones(3).to_sparse()))  # fmt: skip
simple("observation_nested", SiteError, "'x': obs is a nested tensor .*Try: torch.nested.to_padded_tensor", "x", step, DENSE(torch.nested.nested_tensor([torch.ones(3)], layout=torch.jagged)))  # fmt: skip
simple("observation_without_values", SiteError, "'x': the observation is on the meta device, and has no values", "x", step, observing(dist.Normal(0.0, 1.0), torch.zeros((), device="meta")))  # fmt: skip
simple("factor_infinite_at_first", NonFiniteError, r"step 1: the loss is -inf; .* of site 'f' is inf in 1 of 1 entries\. Try: finite data, factors", None, step, after(latent, lambda: vg.factor("f", inf)))  # fmt: skip
FORGOTTEN = r"Try: vg\.subsample\(data\) inside plate 'd', whose 5 of 20 elements are this run's minibatch"
simple("subsample_forgotten_in_data", PlateError, FORGOTTEN, "d", step, after(latent, inside(partial(vg.sample, "x", dist.Normal(0.0, 1.0), obs=torch.zeros(20)), ("d", 20, 5))))  # fmt: skip
simple("subsample_forgotten_in_parameters", PlateError, FORGOTTEN, "d", step, after(latent, inside(partial(vg.sample, "x", dist.Normal(torch.zeros(20), 1.0), obs=torch.zeros(5)), ("d", 20, 5))))  # fmt: skip


@case(ParameterError, "there is nothing to optimise")
def everything_is_frozen():
    net = torch.nn.Linear(1, 1).requires_grad_(False)

    def frozen():
        vg.module("net", net)
        vg.sample("z", dist.Normal(net(torch.ones(1)).squeeze(), 1.0))

    step(latent, frozen)


@case(NonFiniteError, r"step 2: the loss is nan; because parameter 'm' is NaN or infinite.*skip_nonfinite=True")
def parameter_becomes_nan():
    svi = vg.SVI(latent, guide, vg.optim.Adam(), seed=0)
    svi.step()
    svi.bound.get_parameter("m").data.fill_(nan)
    svi.step()


def breaking(what):
    """A model whose observation or cost breaks at the second step."""

    def model(bad):
        latent()
        vg.sample("fine", dist.Normal(0.0, 1.0), obs=torch.tensor(0.0))
        if what == "cost":
            vg.factor("f", torch.tensor(nan if bad else 0.0))
        else:
            vg.sample("x", dist.Normal(0.0, 1.0), obs=torch.tensor(inf if bad else 0.0))

    return model


def break_at_second_step(what, **options):
    svi = vg.SVI(breaking(what), guide, vg.optim.Adam(), seed=0, **options)
    svi.step(False)
    before = {n: p.detach().clone() for n, p in svi.bound.named_parameters()}
    try:
        svi.step(True)
    finally:
        for name, parameter in svi.bound.named_parameters():
            assert torch.equal(parameter, before[name])
    return svi


simple("cost_becomes_nan", NonFiniteError, "step 2: the loss is nan; because the model's log-density of site 'f' is nan in 1 of 1", None, break_at_second_step, "cost")  # fmt: skip
simple("data_become_infinite", SupportError, "'x': the observation has 1 of 1 values outside the support of Normal", "x", break_at_second_step, "data")  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_is_one_clear_error(name):
    error, match, site, function = CASES[name]
    with pytest.raises(error, match=f"(?s){match}") as caught:
        function()
    if error is not TypeError:
        assert type(caught.value) is error
        assert caught.value.site == site
    assert vg.handlers.trace(lambda: None)() == {}  # the stack is clean


@pytest.mark.parametrize("what", ["cost", "data"])
def test_a_step_that_is_not_finite_can_be_skipped(what):
    svi = break_at_second_step(what, skip_nonfinite=True)
    assert svi.metrics.skipped
    svi.step(False)
    assert not svi.metrics.skipped


def test_a_masked_observation_may_be_anything():
    data, known = torch.tensor([0.0, nan, inf]), torch.tensor([True, False, False])

    def model():
        latent()
        with vg.plate("d", 3), vg.handlers.mask(mask=known):
            vg.sample("x", dist.Normal(0.0, 1.0), obs=data)

    (loss,) = step(model)
    assert abs(loss) < inf


def test_a_model_without_latent_sites_is_maximum_likelihood():
    def model(data):
        with vg.plate("d", len(data)):
            vg.sample("x", dist.Normal(vg.param("m", 0.0), 1.0), obs=data)

    fit = vg.SVI(model, lambda data: None, vg.optim.Adam(lr=0.1), seed=0).run(300, torch.tensor([1.0, 2.0, 6.0]))
    assert abs(fit.parameters["m"] - 3.0) < 1e-3


@pytest.mark.parametrize(
    ("warning", "match", "function"),
    [
        (
            GradientWarning,
            "parameter 'u' is not reached by any gradient",
            lambda: step(latent, after(lambda: vg.param("u", 0.0), guide)),
        ),
        (
            SupportWarning,
            r"'z': .*Beta and the model's Normal the guide's cannot reach all values: \[0, 1\] against \[-inf, inf\]",
            lambda: step(latent, lambda: vg.sample("z", dist.Beta(vg.param("a", 1.0), 1.0))),
        ),
        (
            BiasWarning,
            "'z': Pathwise was asked for, but its value goes through a comparison",
            lambda: step(
                lambda: vg.factor("f", (vg.sample("z", dist.Normal(0.0, 1.0)) > 0).float()),
                partial(guide, estimator=Pathwise()),
            ),
        ),
    ],
    ids=["unreached parameter", "narrow guide", "biased by request"],
)
def test_what_is_suspect_warns(warning, match, function):
    with pytest.warns(warning, match=match):
        function()


@pytest.mark.parametrize(
    ("prior", "start"),
    [
        (dist.Uniform(2.0, 3.0), 2.5),
        (dist.HalfCauchy(1.0), 1.0),
        (dist.Pareto(1.0, 2.0), 1.5),
        (dist.Beta(1.0, 1.0), 0.5),
        (dist.Exponential(1.0), 1.0),
    ],
    ids=lambda p: type(p).__name__ if isinstance(p, torch.distributions.Distribution) else "",
)
def test_supports_that_fit_say_nothing(prior, start):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = partial(latent, distribution=prior)
        point = lambda: vg.sample("z", dist.Delta(vg.param("v", start)))  # noqa: E731
        for guide in (vg.guides.AutoNormal(model), vg.guides.AutoDelta(model), point):
            assert abs(vg.SVI(model, guide, vg.optim.Adam(), seed=0).evaluate()) < inf


COMPILED_BEFORE = """
import torch
torch.compile(lambda x: x, backend="eager")
assert torch.distributions.Distribution._validate_args is False  # torch's own doing, to compile distributions
import varigrad as vg
from varigrad import distributions as dist
from varigrad.errors import SupportError
for family in (dist.Beta, torch.distributions.Beta):
    def model():
        z = vg.sample("z", dist.Normal(0.0, 1.0))
        vg.sample("x", family(z.exp(), 1.0), obs=torch.tensor(1.5))
    def guide():
        vg.sample("z", dist.Normal(vg.param("m", 0.0), 1.0))
    try:
        vg.SVI(model, guide, vg.optim.Adam(lr=0.1)).step()
    except SupportError as error:
        print("refused")
"""


def test_compiling_something_switches_no_checks_off():
    ran = subprocess.run([sys.executable, "-c", COMPILED_BEFORE], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["refused"] * 2


@pytest.mark.parametrize("compile", [False, "wait"])
@pytest.mark.parametrize("steps", [1, 15])
@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda x: x.to(torch.complex64), r"'x': the observation is complex \(torch.complex64\)"),
        (lambda x: x > 0, r"'x': Normal.log_prob failed on a value of shape \(4,\) and dtype torch.bool.*data.float"),
        (lambda x: x[:3], r"'d': site 'x' has size 3 at dim -1, the plate has 4"),
        (lambda x: x.to("meta"), r"'x': its distribution is on cpu .*its value on meta"),
    ],
)
def test_observations_of_a_later_minibatch_are_refused_as_those_of_the_first(change, text, steps, compile):
    def model(x):
        z = vg.sample("z", dist.Normal(0.0, 1.0))
        with vg.plate("d", 4):
            vg.sample("x", dist.Normal(z.expand(4), 1.0), obs=x)

    def guide(x):
        vg.sample("z", dist.Normal(vg.param("m", 0.0), 1.0))

    data = torch.tensor([0.5, -1.0, 2.0, 0.0])
    svi = vg.SVI(model, guide, vg.optim.Adam(lr=0.1), seed=0, compile=compile)
    svi.run(steps, data, progress=False)
    before = svi.bound.get_parameter("m").item()
    for _ in range(2):
        with pytest.raises(SiteError, match=text):
            svi.run(3, change(data), progress=False)
    assert svi.bound.get_parameter("m").item() == before
    svi.run(3, data, progress=False)
    loss = vg.ELBO()(model, guide).init(data)
    with pytest.raises(SiteError, match=text):
        loss(change(data))


def test_an_error_of_the_program_itself_stays():
    calls = []

    def model():
        latent()
        calls.append(1)
        if len(calls) > 30:
            raise RuntimeError("mine")

    svi = vg.SVI(model, guide, vg.optim.Adam(lr=0.1), seed=0)
    with pytest.raises(RuntimeError, match=r"^mine$"):
        svi.run(100, progress=False)


WHOLE = {
    "ELBO": lambda n: vg.ELBO(particles=n).particles,
    "Renyi": lambda n: vg.Renyi(particles=n).particles,
    "LeaveOneOut": lambda n: vg.estimators.LeaveOneOut(n).k,
    "DoubleControlVariate": lambda n: vg.estimators.DoubleControlVariate(n).k,
    "Rodeo": lambda n: vg.estimators.Rodeo(n).k,
    "ARMS": lambda n: vg.estimators.ARMS(n).n,
    "UnorderedSet": lambda n: vg.estimators.UnorderedSet(n).k,
    "SumAndSample": lambda n: vg.estimators.SumAndSample(n).k,
    "GumbelRao": lambda n: vg.estimators.GumbelRao(n).k,
    "Annealed": lambda n: vg.estimators.Annealed(1.0, 0.5, n).steps,
    "Rsvi": lambda n: vg.estimators.Rsvi(n).shape_augmentation,
    "Gradients": lambda n: vg.Gradients(n).every,
}


@pytest.mark.parametrize("kind", [np.int64, np.uint8, torch.tensor])
@pytest.mark.parametrize("name", WHOLE)
def test_configurations_hold_whole_numbers_of_python(name, kind):
    """They are printed, compared, hashed and become sizes."""
    found = WHOLE[name](kind(2))
    assert type(found) is int and found == 2
    for wrong in (np.float64(2.0), np.bool_(True), True, torch.tensor([2])):
        with pytest.raises(VarigradError, match="must be a whole number"):
            WHOLE[name](wrong)


@pytest.mark.parametrize("whole", [np.int64, np.uint8, torch.tensor, lambda n: torch.tensor(n, dtype=torch.int32)])
def test_whole_numbers_of_numpy_and_torch_are_whole_numbers(whole):
    plate = vg.plate("a", whole(4), subsample_size=whole(2), dim=whole(-3) if whole is np.int64 else None)
    assert (type(plate.size), plate.size) == (int, 4) and (type(plate.subsample_size), plate.subsample_size) == (int, 2)
    assert plate.dim == (-3 if whole is np.int64 else None) and len(list(vg.plate("b", whole(3)))) == 3

    def model():
        with vg.plate("a", whole(3)):
            vg.sample("z", dist.Normal(0.0, 1.0))

    def here():
        with vg.plate("a", whole(3)):
            vg.sample("z", dist.Normal(vg.param("m", 0.0), 1.0))

    svi = vg.SVI(model, here, vg.optim.Adam(lr=0.1), seed=0)
    fit = svi.run(whole(5), progress=False, every=whole(2), callback=lambda metrics: None)
    assert len(fit.losses) == 5 and fit.sample(whole(2))["z"].shape == (2, 3)
    assert isinstance(svi.evaluate(particles=whole(2)), float)
    assert vg.Predictive(model, num_samples=whole(2))()["z"].shape == (2, 3)


@pytest.mark.parametrize(
    ("what", "because", "text"),
    [
        ("how many?", "", "how many? Try: one"),
        ("is wrong", "torch says no.", "is wrong; because torch says no. Try: one"),
        ("is wrong", "torch says no. ", "is wrong; because torch says no. Try: one"),
        ("is wrong", "it is lambda: ...", "is wrong; because it is lambda: .... Try: one"),
        ("is wrong", "", "is wrong. Try: one"),
    ],
)
def test_sentences_end_once(what, because, text):
    assert str(VarigradError(what, because=because, try_="one")) == text
