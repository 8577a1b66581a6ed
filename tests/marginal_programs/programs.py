"""Model and guide of a specification."""

import zlib

import torch

import varigrad as vg
from marginal_programs.specs import DIMS, PLACES, VALUES
from varigrad import distributions as dist
from varigrad import estimators

F64 = torch.float64


def numbers(spec, name, shape):
    """Numbers that follow from a specification and a name."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{spec.seed} {name}".encode()))
    return torch.randn(shape, generator=generator, dtype=F64)


def within(plates, action, *entered):
    """Call a function inside plates, with what entering each of them gives."""
    if not plates:
        return action(*entered)
    plate, *inner = plates
    with plate as found:
        return within(inner, action, *entered, found)


class Programs:
    """Model and guide of a specification.

    Args:
        spec: the specification.
        copied: whether plates of which a minibatch is used are run with as many copies of it as it stands for, and
            nothing is scaled.
    """

    def __init__(self, spec, copied=False):
        self.spec, self.copied = spec, copied

    def model(self):
        """The model."""
        values = {}

        def body():
            plates = self._plates()
            for site in self.spec.sites:
                within(
                    [plates[p] for p in PLACES[site.place]],
                    lambda *found, site=site: values.update({site.name: self._statement(site, values, found)}),
                )

        self._scaled(body)()

    def guide(self):
        """The guide."""
        values = {}

        def body():
            plates = self._plates()
            for site in self.spec.sites:
                if site.name[0] in "gd":
                    within(
                        [plates[p] for p in PLACES[site.place]],
                        lambda *_, site=site: values.update({site.name: self._draw(site, values)}),
                    )

        self._scaled(body)()

    def _scaled(self, body):
        return body if self.copied or self.spec.scale == 1 else vg.handlers.scale(body, scale=self.spec.scale)

    def _plates(self):
        found = {}
        for p, dim in DIMS.items():
            size, copies = self.spec.sizes[p], self.spec.copies[p]
            if self.copied or copies == 1:
                found[p] = vg.plate(p, size * copies, dim=dim)
            else:
                found[p] = vg.plate(p, size * copies, subsample_size=size, dim=dim)
        return found

    def _data(self, site, what, entered):
        """Numbers for every element in use, with the batch shape of the site's place."""
        spec, plates = self.spec, PLACES[site.place]
        data = numbers(spec, f"{site.name} {what}", tuple(spec.sizes[p] * spec.copies[p] for p in plates))
        for axis, (p, indices) in enumerate(zip(plates, entered, strict=True)):
            if self.copied:
                indices = torch.arange(spec.sizes[p]).repeat(spec.copies[p])
            data = data.index_select(axis, torch.as_tensor(indices))
        return data.unsqueeze(-1) if site.place == "b" else data

    def _statement(self, site, values, entered):
        def body():
            value = self._value(site, values)
            if site.name[0] == "f":
                return vg.factor(site.name, torch.sin(value) + 0.3 * value)
            distribution = self._distribution(site, value, 1.1)
            if site.name[0] != "x":
                return vg.sample(site.name, distribution)
            data = self._data(site, "data", entered)
            if site.family == "bernoulli":
                data = (data > 0).to(F64)
            elif site.family == "categorical":
                data = (data > 0).long() + (data > 1).long()
            given = self._data(site, "missing", entered) > 0 if site.missing else None
            return vg.sample(site.name, distribution, obs=data, obs_mask=given)

        return vg.handlers.mask(body, mask=self._data(site, "mask", entered) > -0.3)() if site.masked else body()

    def _draw(self, site, values):
        total = vg.param(f"{site.name}.q", lambda: numbers(self.spec, f"{site.name} q", ()))
        for name in site.guide_reads:
            total = total + 0.5 * values[name].to(F64)
        distribution = self._distribution(site, total, 0.8)
        if site.family == "normal":
            return vg.sample(site.name, distribution)
        made = {
            "Score": estimators.Score,
            "LeaveOneOut": lambda: estimators.LeaveOneOut(2),
            "Enumerate": estimators.Enumerate,
            "DisARM": estimators.DisARM,
        }[site.estimator]()
        return vg.sample(site.name, distribution, estimator=made)

    def _value(self, site, values):
        """A number that a site's distribution is made of: a function of everything that it reads."""
        features = []
        for name in site.reads:
            feature = self._feature(site, self.spec.by_name[name], values[name])
            if name in site.summed:
                feature = self._sum(feature, self.spec.by_name[name], site)
            features.append(feature)
        total = vg.param(f"{site.name}.p", lambda: 0.5 * numbers(self.spec, f"{site.name} p", ()))
        for feature in features:
            total = total + feature
        if site.joint and len(features) > 1:
            product = features[0] + 0.3
            for feature in features[1:]:
                product = product * (feature - 0.2)
            total = total + product
        return total

    def _feature(self, site, source, value):
        """What a site reads of another: a table's entry for a discrete choice."""
        count = VALUES[source.family]
        if not count:
            return torch.tanh(value)
        table = vg.param(
            f"{site.name}.{source.name}", lambda: numbers(self.spec, f"{site.name} {source.name}", (count,))
        )
        if source.family == "one_hot":
            return (value * table).sum(-1)
        return table[value.long()]

    def _sum(self, feature, source, site):
        lost = [DIMS[p] for p in PLACES[source.place] if p not in PLACES[site.place]]
        shape = self.spec.shape(source.place)
        missing = len(shape) - feature.dim()  # a value in no plate dimension, of a site in a plate
        feature = feature.reshape((1,) * max(missing, 0) + tuple(feature.shape))
        summed = feature.sum(lost, keepdim=True)
        return 0.7 * summed

    def _distribution(self, site, value, scale):
        if site.family == "normal":
            return dist.Normal(value, scale)
        if site.family == "bernoulli":
            return dist.Bernoulli(logits=value)
        if site.family == "binomial":
            return dist.Binomial(2, logits=value)
        logits = torch.stack([0 * value, value, torch.sin(2 * value)][: VALUES[site.family]], -1)
        return dist.OneHotCategorical(logits=logits) if site.family == "one_hot" else dist.Categorical(logits=logits)
