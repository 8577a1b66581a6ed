"""Warnings name the line of the user's that has called, not one of the library's."""

import inspect
import warnings

import pytest
import torch

import varigrad as vg
from varigrad import distributions as dist
from varigrad.estimators import Pathwise, Score

DATA = torch.tensor([0.5, 1.0])


def normal(**options):
    vg.sample("z", dist.Normal(vg.param("m", 0.0), 1.0), **options)


def model(data):
    z = vg.sample("z", dist.Normal(0.0, 1.0))
    vg.sample("x", dist.Normal(z, 1.0).expand([2]).to_event(1), obs=data)


def stepped(data):
    z = vg.sample("z", dist.Normal(0.0, 1.0))
    vg.factor("f", (z > 0).float())


def asks_for_pathwise(data):
    normal(estimator=Pathwise())


def narrow(data):
    vg.sample("z", dist.LogNormal(vg.param("m", 0.0), 1.0))


def unreached(data):
    normal()
    vg.param("idle", 0.0)


def refuses_to_compile(data):
    normal()
    if float(data.sum()) > 0:
        torch.rand(3, generator=torch.Generator().manual_seed(0)).tolist()


def coin():
    toss = vg.sample("toss", dist.Bernoulli(0.4))
    vg.sample("x", dist.Normal(toss, 1.0), obs=torch.tensor(0.5))


def coins():
    vg.sample("toss", dist.Bernoulli(logits=vg.param("w", 0.0)))


CASES = {
    "bias": (stepped, asks_for_pathwise, {}, "Pathwise was asked for"),
    "support": (model, narrow, {}, "cannot reach all values"),
    "not reached": (model, unreached, {}, "is not reached by any gradient"),
    "not compiled": (model, refuses_to_compile, {"compile": "wait"}, "steps run eagerly"),
}


@pytest.mark.parametrize("way", ["step", "run"])
@pytest.mark.parametrize("case", CASES)
def test_a_warning_names_the_users_line(case, way):
    programs, options, text = CASES[case][:2], *CASES[case][2:]
    svi = vg.SVI(*programs, vg.optim.Adam(lr=0.01), seed=0, **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        first = inspect.currentframe().f_lineno
        if way == "step":
            for _ in range(4):
                svi.step(DATA)
        else:
            svi.run(4, DATA, progress=False)
        last = inspect.currentframe().f_lineno
    found = [w for w in caught if text in str(w.message)]
    assert found, [str(w.message) for w in caught]
    assert all(w.filename == __file__ and first < w.lineno < last for w in found)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"estimators": {"zz*": Score()}},
            r"'zz\*': estimators has this glob, and it matches no site of the first run",
        ),
        ({"estimators": {"tose?": Score()}}, r"'tose\?': .*first run \(did you mean 'toss'\?\); the sites are 'toss'"),
        ({"weights": {"q[12]": 0.5}}, r"'q\[12\]': weights has this glob"),
        ({"analytic_kl": ["q*"]}, r"'q\*': analytic_kl has this glob"),
    ],
)
def test_a_glob_that_matches_no_site_is_told_once(options, text):
    with pytest.warns(UserWarning, match=text) as caught:
        svi = vg.SVI(coin, coins, vg.optim.Adam(lr=0.01), vg.ELBO(**options), seed=0)
    svi.run(12, progress=False)
    assert [w.filename for w in caught] == [__file__]
    svi.plan()


@pytest.mark.parametrize("glob", ["*", "t*", "toss", "to[sz]s", "x"])
def test_a_glob_that_matches_a_site_is_not_told(glob):
    options = {"weights": {glob: 1.0}} if glob == "x" else {"estimators": {glob: Score()}}
    vg.SVI(coin, coins, vg.optim.Adam(lr=0.01), vg.ELBO(**options), seed=0).step()


def test_a_glob_for_all_sites_of_a_program_without_choices_is_not_told():
    def model():
        vg.factor("f", -(vg.param("m", 1.0) ** 2))

    vg.SVI(model, lambda: None, vg.optim.Adam(lr=0.01), vg.ELBO(estimators={"*": Score()}), seed=0).step()
