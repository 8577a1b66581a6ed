"""`Fit`: the result of a run, with parameters, losses, and draws from the fitted guide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import Tensor

from varigrad import plots
from varigrad.errors import SiteError, VarigradError, did_you_mean, whole_number
from varigrad.inference.noise_history import NoiseHistory
from varigrad.inference.predictive import Predictive
from varigrad.language.messages import Names
from varigrad.language.trace import Trace
from varigrad.objectives.bound import Bound
from varigrad.objectives.marginal_posterior import Assignment, assignments, marginals
from varigrad.shapes import table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Fit:
    """The result of `SVI.run`.

    Attributes:
        bound: the objective, which owns the (live) parameters.
        losses: `[steps]`, minus the estimated bound at each step; NaN where a step was skipped.
        seconds: wall time of the run.
        skipped: how many steps were skipped for a loss or gradient that was not finite.
        args, kwargs: what the programs were last called with.
        gradients: what `run(..., monitor=Gradients())` has seen of the gradient's noise; None without it.

    Example:
        >>> import torch, varigrad as vg
        >>> from varigrad import distributions as dist
        >>> def model():
        ...     z = vg.sample("z", dist.Normal(0.0, 1.0))
        ...     vg.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(2.0))
        >>> def guide():
        ...     vg.sample("z", dist.Normal(vg.param("m", 0.0), 0.7))
        >>> fit = vg.SVI(model, guide, vg.optim.Adam(lr=0.1), seed=0).run(20)
        >>> fit.losses.shape, fit.skipped, sorted(fit.parameters)
        (torch.Size([20]), 0, ['m'])
    """

    bound: Bound
    losses: Tensor
    seconds: float
    skipped: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    gradients: NoiseHistory | None = None

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Constrained values of all `param` statements, and the parameters of modules, by name."""
        found = {name: p.detach() for name, p in self.bound.named_parameters()}
        return {**found, **self.bound.constrained_values()}

    def sample(self, n: int, *args: object, **kwargs: object) -> dict[str, Tensor]:
        """`n` draws of every latent site from the guide, `[n, *site]`; arguments default to the run's last ones."""
        n = whole_number("n", n)
        args, kwargs = (args, kwargs) if args or kwargs else (self.args, self.kwargs)
        draws: list[dict[str, Tensor]] = []
        with torch.no_grad():
            for _ in range(n):
                trace: Trace = self.bound.trace_guide(*args, **kwargs)
                draws.append(trace.latents)
        return {name: torch.stack([d[name] for d in draws]) for name in draws[0]}

    @overload
    def marginals(self, site: str, *args: object, draws: int = 100, **kwargs: object) -> Tensor: ...
    @overload
    def marginals(self, site: None = None, *args: object, draws: int = 100, **kwargs: object) -> dict[str, Tensor]: ...
    def marginals(
        self, site: str | None = None, *args: object, draws: int = 100, **kwargs: object
    ) -> Tensor | dict[str, Tensor]:
        """Posterior probabilities of every value of a site that is summed out (`ELBO(marginal=...)`).

        They are exact given a draw of the guide, and averaged over draws.

        Args:
            site: the site's name; None: all of them, in a dictionary.
            args, kwargs: what the programs are called with; default: the run's last arguments.
            draws: how many draws of the guide.

        Returns:
            `[*plates, values]`. Of a plate that is subsampled: for the elements of one minibatch per draw, so call
            with data that are used whole.

        Raises:
            SiteError: no site of this name is summed out.
            VarigradError: nothing is summed out.

        Example:
            >>> import torch, varigrad as vg
            >>> from varigrad import distributions as dist
            >>> def model():
            ...     k = vg.sample("k", dist.Bernoulli(0.5))
            ...     vg.sample("x", dist.Normal(2 * k, vg.param("sd", 1.0)), obs=torch.tensor(1.0))
            >>> def guide():
            ...     pass
            >>> vg.SVI(model, guide, vg.optim.Adam(0.01), vg.ELBO(marginal="k")).run(1).marginals("k")
            tensor([0.5000, 0.5000])
        """
        args, kwargs = (args, kwargs) if args or kwargs else (self.args, self.kwargs)
        found = marginals(self.bound, whole_number("draws", draws), args, kwargs)
        if site is None:
            return found
        if site not in found:
            base, _, number = site.rpartition("_")
            raise SiteError(
                f"is not summed out{did_you_mean(site, found)}",
                site=site,
                because=f"the sites that are: {', '.join(map(repr, found))}; those of a chain are one, of all rounds",
                try_=f"marginals({base!r})[{number}]" if base in found and number.isdigit() else "",
            )
        return found[site]

    def predict(
        self,
        n: int,
        *args: object,
        return_sites: Names | None = None,
        vectorize: bool | None = None,
        marginal: Assignment = "sample",
        **kwargs: object,
    ) -> dict[str, Tensor]:
        """`n` draws from the model given draws from the guide: see `Predictive`. Arguments are those of the model.

        Args:
            n: how many.
            args, kwargs: what the model is called with.
            return_sites, vectorize: as in `Predictive`.
            marginal: values of sites that are summed out: "sample" draws them from their joint posterior given the
                guide's draw and the observations in these arguments; "max" takes the most probable joint value.

        Returns:
            `[n, *site]`, by site; sites that are summed out are among them.
        """
        bound = self.bound
        guide: dict[str, Tensor] = {}
        model: dict[str, Tensor] = {}
        if bound.config.marginal:
            guide, model = assignments(bound, whole_number("n", n), marginal, args, kwargs)
        return Predictive(
            bound.model_program,
            None if model else bound.guide_program,
            {**guide, **model} if model else None,
            num_samples=n,
            return_sites=return_sites,
            include=tuple(model),
            vectorize=vectorize,
            owner=bound.owner,
            source=bound.source,
        )(*args, **kwargs)

    def plot(self, what: Literal["losses", "gradients"] = "losses") -> Figure:
        """The losses, or what is known of the gradient's noise, against the steps. Needs matplotlib
        (`pip install 'varigrad[plots]'`).

        Raises:
            VarigradError: there is no picture of that name, or the run had no monitor.
        """
        if what == "losses":
            return plots.losses(self.losses)
        if what != "gradients":
            raise VarigradError(f"there is no picture of {what!r}", try_='fit.plot(), or fit.plot("gradients")')
        if self.gradients is None:
            raise VarigradError(
                "the gradient's noise was not monitored in this run", try_="svi.run(..., monitor=vg.Gradients())"
            )
        return self.gradients.plot()

    def __str__(self) -> str:
        steps = len(self.losses)
        tail = self.losses[-max(1, steps // 10) :]
        tail = tail[tail.isfinite()]
        rate = self.seconds / max(steps, 1) * 1e6
        lines = [f"{steps} steps in {self.seconds:.2f} s ({rate:.0f} us a step)"]
        if len(tail) > 1:
            error = tail.std() / len(tail) ** 0.5
            lines.append(f"loss over the last {len(tail)} steps: {tail.mean():.4f} (standard error {error:.2g})")
        if self.skipped:
            lines.append(f"skipped {self.skipped} steps that were not finite")
        if self.gradients is not None:
            lines.append(self.gradients.note)
        rows = []
        for name, value in self.parameters.items():
            shown = f"{value.item():.5g}" if value.numel() == 1 else f"mean {value.mean():.4g}, sd {value.std():.4g}"
            rows.append((name, tuple(value.shape), shown))
        return "\n".join([*lines, table(rows, ("parameter", "shape", "value"))])
