"""The seven workloads for NumPyro, from arrays that hold the same data and starting points."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpyro
from jax import lax
from numpyro import distributions as dist

from benchmarks.workload import Programs

Arrays = Mapping[str, Any]
POSITIVE = dist.constraints.positive


class ScoreBeta(dist.Beta):
    """A Beta without pathwise gradient: TraceGraph_ELBO takes the score function for it."""

    reparametrized_params: ClassVar[list[str]] = []

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Any:
        return lax.stop_gradient(super().sample(key, sample_shape))


def coin(arrays: Arrays) -> Programs:
    prior, start = arrays["prior"], arrays["start"]

    def model(data):
        fairness = numpyro.sample("fairness", dist.Beta(prior, prior))
        with numpyro.plate("tosses", len(data)):
            numpyro.sample("toss", dist.Bernoulli(fairness), obs=data)

    def guide(data):
        a = numpyro.param("a", start, constraint=POSITIVE)
        b = numpyro.param("b", start, constraint=POSITIVE)
        numpyro.sample("fairness", ScoreBeta(a, b))

    return Programs(model, guide, (jnp.asarray(arrays["data"]),), loss="TraceGraph_ELBO")


def gaussian_mixture(arrays: Arrays) -> Programs:
    start, points = jnp.asarray(arrays["start"]), len(arrays["data"])
    kinds = len(start)

    def model(data):
        # NumPyro's bijection to the simplex is another one than torch's softmax.
        weights = jax.nn.softmax(numpyro.param("weights", jnp.log(jnp.full(kinds, 1 / kinds))))
        with numpyro.plate("components", kinds):
            locs = numpyro.sample("locs", dist.Normal(0.0, arrays["spread"]))
        with numpyro.plate("points", points):
            component = numpyro.sample("component", dist.Categorical(weights))
            numpyro.sample("x", dist.Normal(locs[component], 1.0), obs=data)

    def guide(data):
        loc = numpyro.param("loc", start)
        scale = numpyro.param("scale", jnp.full(kinds, 0.1), constraint=POSITIVE)
        logits = numpyro.param("logits", jnp.zeros((points, kinds)))
        with numpyro.plate("components", kinds):
            numpyro.sample("locs", dist.Normal(loc, scale))
        with numpyro.plate("points", points):
            numpyro.sample("component", dist.Categorical(logits=logits))

    return Programs(model, guide, (jnp.asarray(arrays["data"]),), loss="TraceGraph_ELBO")


def logistic(arrays: Arrays) -> Programs:
    x, y = jnp.asarray(arrays["x"]), jnp.asarray(arrays["y"])
    rows, columns = x.shape

    def model(x, y):
        weights = numpyro.sample("weights", dist.Normal(jnp.zeros(columns), 1.0).to_event(1))
        bias = numpyro.sample("bias", dist.Normal(0.0, 10.0))
        with numpyro.plate("rows", rows):
            numpyro.sample("y", dist.Bernoulli(logits=x @ weights + bias), obs=y)

    def guide(x, y):
        loc = numpyro.param("loc", jnp.zeros(columns))
        scale = numpyro.param("scale", jnp.full(columns, 0.1), constraint=POSITIVE)
        bias_loc = numpyro.param("bias_loc", 0.0)
        bias_scale = numpyro.param("bias_scale", 0.1, constraint=POSITIVE)
        numpyro.sample("weights", dist.Normal(loc, scale).to_event(1))
        numpyro.sample("bias", dist.Normal(bias_loc, bias_scale))

    return Programs(model, guide, (x, y))


def eight_schools(arrays: Arrays) -> Programs:
    effect, error = jnp.asarray(arrays["effect"]), jnp.asarray(arrays["error"])
    schools = len(effect)

    def model(effect, error):
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
        with numpyro.plate("schools", schools):
            theta = numpyro.sample("theta", dist.Normal(0.0, 1.0))
            numpyro.sample("y", dist.Normal(mu + tau * theta, error), obs=effect)

    def guide(effect, error):
        mu = numpyro.param("mu.loc", 0.0), numpyro.param("mu.scale", 1.0, constraint=POSITIVE)
        tau = numpyro.param("tau.loc", 0.0), numpyro.param("tau.scale", 1.0, constraint=POSITIVE)
        theta = (
            numpyro.param("theta.loc", jnp.zeros(schools)),
            numpyro.param("theta.scale", jnp.ones(schools), constraint=POSITIVE),
        )
        numpyro.sample("mu", dist.Normal(*mu))
        numpyro.sample("tau", dist.LogNormal(*tau))
        with numpyro.plate("schools", schools):
            numpyro.sample("theta", dist.Normal(*theta))

    return Programs(model, guide, (effect, error))


def network(arrays: Arrays, name: str) -> Arrays:
    """The parameters of a torch network, by name, declared by one statement."""
    return numpyro.param(name, {key: jnp.asarray(value) for key, value in arrays.items() if key.startswith(name)})


def linear(values: Arrays, layer: str, x: Any) -> Any:
    return x @ values[f"{layer}.weight"].T + values[f"{layer}.bias"]


def vae(arrays: Arrays) -> Programs:
    x = jnp.asarray(arrays["x"])
    batch, code = len(x), len(arrays["encoder.loc.bias"])

    def model(x):
        decoder = network(arrays, "decoder")
        with numpyro.plate("batch", batch):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(code), 1.0).to_event(1))
            hidden = jax.nn.relu(linear(decoder, "decoder.hidden", z))
            pixels = linear(decoder, "decoder.logits", hidden)
            numpyro.sample("x", dist.Bernoulli(logits=pixels).to_event(1), obs=x)

    def guide(x):
        encoder = network(arrays, "encoder")
        with numpyro.plate("batch", batch):
            hidden = jax.nn.relu(linear(encoder, "encoder.hidden", x))
            scale = jax.nn.softplus(linear(encoder, "encoder.raw", hidden))
            numpyro.sample("z", dist.Normal(linear(encoder, "encoder.loc", hidden), scale).to_event(1))

    return Programs(model, guide, (x,))


def belief_net(arrays: Arrays) -> Programs:
    x = jnp.asarray(arrays["x"])
    batch = len(x)

    def model(x):
        generator = network(arrays, "generator")
        with numpyro.plate("batch", batch):
            top = numpyro.sample("top", dist.Bernoulli(logits=generator["generator.top"]).to_event(1))
            bottom_p = dist.Bernoulli(logits=linear(generator, "generator.bottom", _float(top)))
            bottom = numpyro.sample("bottom", bottom_p.to_event(1))
            pixels = linear(generator, "generator.pixels", _float(bottom))
            numpyro.sample("x", dist.Bernoulli(logits=pixels).to_event(1), obs=x)

    def guide(x):
        recogniser = network(arrays, "recogniser")
        with numpyro.plate("batch", batch):
            bottom_q = dist.Bernoulli(logits=linear(recogniser, "recogniser.bottom", x))
            bottom = numpyro.sample("bottom", bottom_q.to_event(1))
            top_q = dist.Bernoulli(logits=linear(recogniser, "recogniser.top", _float(bottom)))
            numpyro.sample("top", top_q.to_event(1))

    return Programs(model, guide, (x,), loss="TraceGraph_ELBO")


def _float(value: Any) -> Any:
    """NumPyro's Bernoulli draws integers."""
    return value.astype(jnp.float32)


def chain(arrays: Arrays) -> Programs:
    data = tuple(jnp.asarray(x) for x in arrays["data"])

    def model(data):
        z = 0.0
        for t, x in enumerate(data):
            z = numpyro.sample(f"z{t}", dist.Normal(z, 1.0))
            numpyro.sample(f"x{t}", dist.Normal(z, 1.0), obs=x)

    def guide(data):
        for t in range(len(data)):
            loc = numpyro.param(f"loc{t}", 0.0)
            scale = numpyro.param(f"scale{t}", 0.5, constraint=POSITIVE)
            numpyro.sample(f"z{t}", dist.Normal(loc, scale))

    return Programs(model, guide, (data,))


PROGRAMS: Mapping[str, Callable[[Arrays], Programs]] = {
    "coin": coin,
    "gaussian_mixture": gaussian_mixture,
    "logistic": logistic,
    "eight_schools": eight_schools,
    "vae": vae,
    "belief_net": belief_net,
    "chain": chain,
}
