"""`DiscreteHMM`: sequences of observations of a hidden chain of discrete states."""

from __future__ import annotations

import torch
from torch import Size, Tensor
from torch import distributions as td
from torch.distributions import constraints

from varigrad.distributions.families import Categorical
from varigrad.distributions.hidden_markov.base import HiddenMarkov
from varigrad.distributions.hidden_markov.forward_backward import backward, final, forward
from varigrad.distributions.hidden_markov.scan import compose, compose_backwards, states_backwards
from varigrad.distributions.hidden_markov.scan import states as states_after
from varigrad.distributions.log_space import log_maximum, log_sum_exp, normalized
from varigrad.distributions.mixin import Masked
from varigrad.distributions.tensor_walk import tensors_of
from varigrad.shapes import Shape, join


class DiscreteHMM(HiddenMarkov):
    r"""Sequences of observations, each made by the hidden state of a Markov chain at its time.

    .. math:: x_0 \sim \mathrm{initial}, \quad x_t \sim \mathrm{transition}_t(x_{t-1}), \quad
        y_t \sim \mathrm{observation}_t(x_t), \qquad t = 1, \dots, T

    The states are summed out, exactly: in a number of operations logarithmic in the number of times where these are
    small, one time after the other where there are many states. What a state makes impossible may have the logit minus
    infinity. A row of transitions that is minus infinity throughout has no successor: every sequence through it has
    probability zero.

    Args:
        initial_logits: of the state before the first time, `[*batch, states]`, up to a constant.
        transition_logits: `[*batch, time, states, states]` or `[states, states]`, from the row to the column.
        observation_dist: of batch shape `[*batch, time, states]`; its event is one observation.
        duration: number of times. Needed for draws if all parameters are the same at all times.
        mask: bool, `[*batch, time]`: False where an observation is missing, which may then hold any number. Draws have
            observations everywhere.

    Raises:
        ValueError: the shapes do not broadcast, or contradict the duration.
        TypeError: the mask is not bool.

    Example:
        >>> import torch
        >>> from varigrad import distributions as dist
        >>> stays = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).log()
        >>> d = dist.DiscreteHMM(torch.zeros(2), stays, dist.Normal(torch.tensor([0.0, 5.0]), 1.0), duration=4)
        >>> d.most_probable_path(torch.tensor([0.1, 0.2, 5.3, 4.9]))
        tensor([0, 0, 1, 1])

    References:
        Rabiner (1989), A tutorial on hidden Markov models. doi:10.1109/5.18626.
        Särkkä, García-Fernández (2021), Temporal parallelization of Bayesian smoothers. arXiv:1905.13002.
    """

    arg_constraints: dict[str, constraints.Constraint] = {
        "initial_logits": constraints.real_vector,
        "transition_logits": constraints.independent(constraints.real, 2),
    }

    def __init__(
        self,
        initial_logits: Tensor,
        transition_logits: Tensor,
        observation_dist: td.Distribution,
        validate_args: bool | None = None,
        duration: int | None = None,
        mask: Tensor | None = None,
    ) -> None:
        states = initial_logits.shape[-1:]
        seen = observation_dist.batch_shape
        if initial_logits.dim() < 1 or transition_logits.dim() < 2 or transition_logits.shape[-2:] != states + states:
            found = f"{list(initial_logits.shape)} and {list(transition_logits.shape)}"
            raise ValueError(
                "DiscreteHMM: initial_logits and transition_logits must be [*batch, states] and "
                f"[*batch, time, states, states], got {found}"
            )
        if seen[-1:] != states:
            raise ValueError(
                f"DiscreteHMM: observation_dist must have the batch shape [*batch, time, {states[0]}], one for each "
                f"state, got {list(seen)}"
            )
        self.initial_logits: Tensor = initial_logits
        self.transition_logits: Tensor = transition_logits
        self.observation_dist: td.Distribution = observation_dist
        shapes = [(*initial_logits.shape[:-1], 1), transition_logits.shape[:-2], seen[:-1]]
        self._lay_out(shapes, observation_dist.event_shape, duration, mask, validate_args)

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        each = self.observation_dist.support
        assert each is not None
        alike = self.observed is None and not tensors_of(each)[0]
        return constraints.independent(each if alike else _OfSomeState(each, self.observed), 1)

    def log_prob(self, value: Tensor) -> Tensor:
        return self._over_batch(log_sum_exp(final(*self._chain(value)), [-1]))

    def filter(self, value: Tensor) -> Categorical:
        """The posterior of the last state given all observations.

        Args:
            value: `[*sample, *batch, time, *observation]`.
        """
        return Categorical(logits=self._over_batch_and(final(*self._chain(value)), 1))

    def smooth(self, value: Tensor) -> Tensor:
        """Log-probabilities of the state at each time given all observations.

        Args:
            value: `[*sample, *batch, time, *observation]`.

        Returns:
            `[*sample, *batch, time, states]`; minus infinity throughout where the observations are impossible.
        """
        initial, factors = self._chain(value)
        return self._over_batch_and(normalized(forward(initial, factors) + backward(factors)), 2)

    def most_probable_path(self, value: Tensor) -> Tensor:
        """The states that are most probable together, given all observations: the Viterbi path.

        Args:
            value: `[*sample, *batch, time, *observation]`.

        Returns:
            Whole numbers, `[*sample, *batch, time]`.
        """
        with torch.no_grad():
            initial, factors = self._chain(value)
            best = forward(initial, factors, log_maximum)
            came_from = (best[..., :-1, :].unsqueeze(-1) + factors[..., 1:, :, :]).argmax(-2)
            return self._over_batch_and(_traced_back(best[..., -1, :].argmax(-1), came_from), 1)

    def posterior_sample(self, value: Tensor, sample_shape: Shape = torch.Size()) -> Tensor:
        """Draws of all states together, given all observations.

        Args:
            value: `[*batch, time, *observation]`.
            sample_shape: how many draws.

        Returns:
            Whole numbers, `[*sample_shape, *batch, time]`.
        """
        with torch.no_grad():
            initial, factors = self._chain(value)
            factors = factors.expand(join(factors.shape[:-3], self.batch_shape) + factors.shape[-3:])
            until = forward(initial, factors)
            last = _drawn(until[..., -1, :], sample_shape)
            came_from = _drawn((until[..., :-1, :].unsqueeze(-1) + factors[..., 1:, :, :]).mT, sample_shape)
            return _traced_back(last, came_from)

    def sample(self, sample_shape: Shape = torch.Size()) -> Tensor:
        batch, steps, states = self.batch_shape, self._steps(), self.initial_logits.shape[-1]
        with torch.no_grad():
            state = _drawn(self.initial_logits.expand(*batch, states), sample_shape)
            # The successor of every state at every time: the chain is the composition of these maps.
            successors = _drawn(self.transition_logits.expand(*batch, steps, states, states), sample_shape)
            start = (state[..., None, None, None],)
            path = states_after(start, (successors.unsqueeze(-2),), compose, compose)[0].squeeze(-2)
            observed: Tensor = self.observation_dist.expand((*batch, steps, states)).sample(Size(sample_shape))
            event = self.event_shape[1:]
            index = path.reshape(path.shape + (1,) * len(event)).expand(path.shape + event)
            return observed.gather(path.dim() - 1, index).squeeze(path.dim() - 1)

    def _chain(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the first state, and of each transition together with the observation after it.

        Returns:
            `[*batch, states]` and `[*sample, *batch, time, states, states]`.
        """
        self._check(value)
        each = value.unsqueeze(value.dim() - len(self.event_shape) + 1)
        observation = self.observation_dist
        if self.observed is not None:
            observation = Masked(observation, self.observed.unsqueeze(-1))
        factors = normalized(self.transition_logits) + observation.log_prob(each).unsqueeze(-2)
        return normalized(self.initial_logits), factors

    def _over_batch_and(self, result: Tensor, dims: int) -> Tensor:
        """A result of `dims` dimensions, with all batch dimensions."""
        batch = join(result.shape[: result.dim() - dims], self.batch_shape)
        return result.expand(batch + result.shape[result.dim() - dims :])


class _OfSomeState(constraints.Constraint):
    """Observations that some state can make.

    Args:
        each: the support of the states' distributions, whose batch ends with the states.
        observed: `[*batch, time]`, where observations count; None: everywhere.
    """

    def __init__(self, each: constraints.Constraint, observed: Tensor | None) -> None:
        self.each, self.observed = each, observed

    is_discrete = property(lambda self: self.each.is_discrete)
    event_dim = property(lambda self: self.each.event_dim)

    def check(self, value: Tensor) -> Tensor:
        possible: Tensor = self.each.check(value.unsqueeze(value.dim() - self.event_dim)).any(-1)
        return possible if self.observed is None else possible | ~self.observed


def _drawn(logits: Tensor, sample_shape: Shape) -> Tensor:
    """Draws of categories, `[*sample_shape, *batch]`. A row that cannot occur may be drawn from in any way."""
    possible = (logits > -torch.inf).any(-1, keepdim=True)
    law = td.Categorical(logits=torch.where(possible, logits, 0.0), validate_args=False)
    drawn: Tensor = law.sample(Size(sample_shape))
    return drawn


def _traced_back(last: Tensor, came_from: Tensor) -> Tensor:
    """The path that ends in a state.

    Args:
        last: the state at the last time, `[*batch]`.
        came_from: the state at each time but the last, given the next one: `[*batch, time - 1, states]`.

    Returns:
        `[*batch, time]`.
    """
    end = last[..., None, None, None]
    (reached,) = states_backwards((end,), (came_from.unsqueeze(-2),), compose_backwards, compose)
    return torch.cat([reached, end], -3).flatten(-3)
