"""`MarginalValues`: the values that a run of the model has at the sites that are summed out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch import distributions as td

from varigrad.language.messages import Chain, Sample, evolve
from varigrad.language.runtime import expanded, shape_of
from varigrad.objectives.chain_rounds import AllRounds
from varigrad.objectives.marginal_sites import is_marginal, marginal_site
from varigrad.objectives.run_record import RunRecord, RunSettings, VectorizationChanged
from varigrad.terms.dependency_tracker import Statement
from varigrad.terms.marginal import MarginalSite


@dataclass(eq=False)
class MarginalValues:
    """Gives the sites that are summed out their values: all of them, or one that is asked for, or one that is drawn.

    Attributes:
        settings: of the run.
        record: what the run leaves behind.
        forced: values that are asked for, by site.
        given: what the sites' statements have returned, by site.
    """

    settings: RunSettings
    record: RunRecord
    forced: Mapping[str, Tensor]
    given: dict[str, Tensor] = field(default_factory=dict)

    def includes(self, message: Sample) -> bool:
        """Whether a site that the guide lacks is summed out."""
        settings = self.settings
        return message.name not in settings.never_marginal and is_marginal(message, settings.marginal)

    def put(self, message: Sample) -> Tensor:
        """The value of a site, marked with the site.

        Args:
            message: its statement, with plain tensors.
        """
        value = self.given[message.name] = self._values(marginal_site(message), expanded(message))
        return value

    def chain(self, message: Chain) -> Chain:
        """Have the rounds of a chain run at once, or some of them one after the other."""
        record, one_by_one = self.record, self.settings.vectorization.rounds
        if one_by_one:
            return evolve(message, most=one_by_one)
        return evolve(
            message, at_once=AllRounds(message, record.marginal, self.given, self._before, record.chains.append)
        )

    def check_slots(self, statement: Statement) -> None:
        """Check that sites which are read together do not lie along one dimension.

        Raises:
            VectorizationChanged: two do, so the programs have to be looked at again.
        """
        slots = self.settings.vectorization.slots
        if slots and statement.upstream:
            read = {token.site for token in statement.upstream if token.site in slots}
            if len({slots[site] for site in read}) != len(read):
                raise VectorizationChanged(statement.message.name)

    def _before(self, site: MarginalSite) -> Tensor:
        """The state before each round of a chain."""
        shape = shape_of(site.plates)
        choice = td.Categorical(logits=torch.zeros(*shape, len(site.values), device=site.values.device))
        return self._values(site, choice, listed=True)

    def _values(self, site: MarginalSite, distribution: td.Distribution, listed: bool = False) -> Tensor:
        """The value of a site, marked with the site.

        Args:
            distribution: what it is drawn from, if it is.
            listed: whether this is a distribution of positions in the list of values.
        """
        settings, record, name = self.settings, self.record, site.name
        slots, dims = settings.vectorization.slots, settings.vectorization.dims
        record.marginal[name] = site
        if name in self.forced:
            value = self.forced[name]
        elif settings.explore:
            settings.source.site = name
            value = settings.source.draw(distribution)
            value = site.values[value] if listed else value
        elif name in slots:
            record.spread = True
            value = site.spread(slots[name], dims)
        else:
            raise VectorizationChanged(name)
        return record.tracker.mark_marginal(name, value, site.plates)
