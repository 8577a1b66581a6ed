"""`SitewiseGuide`: interface of automatic guides with one independent distribution for each latent site."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn
from torch import distributions as td

from varigrad.guides.base import AutoGuide, Inside, Latent
from varigrad.language.primitives import sample, subsample


class SitewiseGuide(AutoGuide):
    """Interface of guides that sample each site from a separate distribution; serves subsampled plates."""

    def make(self, starts: Sequence[tuple[Latent, Tensor]]) -> None:
        for latent, start in starts:
            self.make_site(latent, start)

    def draw(self, inside: Inside) -> dict[str, Tensor]:
        values = {}
        for latent in self._latents:
            with inside(latent):
                values[latent.name] = sample(latent.name, self.distribution(latent))
        return values

    @abstractmethod
    def make_site(self, latent: Latent, start: Tensor) -> None:
        """Create the parameters of one site; `start` is unconstrained and full-size, `[*plates, *free]`."""

    @abstractmethod
    def distribution(self, latent: Latent) -> td.Distribution:
        """The site's distribution for this run, cut down to the minibatch."""

    def parameter(self, kind: str, latent: Latent) -> Tensor:
        """A site's parameter, full-size."""
        value = getattr(self._modules[kind], _key(latent.name))
        assert isinstance(value, Tensor)
        return value

    def cut(self, kind: str, latent: Latent) -> Tensor:
        """A site's parameter, cut down to the minibatches of the plates in force."""
        value = self.parameter(kind, latent)
        minibatch = self._plates is not None or any(f.subsample_size is not None for f in latent.frames)
        return subsample(value, self.dims(latent)) if minibatch else value

    def dims(self, latent: Latent) -> int:
        """How many dimensions of a stored parameter are right of the plates'."""
        return latent.free_dim

    def store(self, kind: str, latent: Latent, value: Tensor) -> None:
        """Make `value` a parameter of the site."""
        if kind not in self._modules:
            self.add_module(kind, nn.ParameterDict())
        parameters = self._modules[kind]
        assert isinstance(parameters, nn.ParameterDict)
        parameters[_key(latent.name)] = nn.Parameter(value.detach().clone().contiguous())


def _key(name: str) -> str:
    return name.replace(".", "__")
