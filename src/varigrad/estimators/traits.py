"""Traits of an estimator: how it draws, what it needs of the cost, and whether it is unbiased.

An estimator overrides only the traits that differ from the defaults, as class attributes (or as properties, where they
depend on its arguments):

    needs = Needs(per_element=True)
"""

from __future__ import annotations

from dataclasses import dataclass
from inspect import get_annotations

from varigrad.distributions.couplings import Coupling
from varigrad.errors import SiteError


@dataclass(frozen=True)
class Drawing:
    """How an estimator draws: with or without a derivative, and independently or coupled.

    Attributes:
        pathwise: the draw carries the derivative by the guide's parameters.
        partial: the draw carries a part of it only, and `surrogate` adds the score part.
        coupling: how the draws of the particles belong together; None: they are independent.

    Example:
        >>> from varigrad.estimators import Pathwise, Score
        >>> Pathwise().drawing.pathwise, Score().drawing.pathwise
        (True, False)
    """

    pathwise: bool = False
    partial: bool = False
    coupling: Coupling | None = None


@dataclass(frozen=True)
class Slope:
    """Options of `draw.slope`, the derivative of the mean cost by the value, for an estimator with alternatives.

    Attributes:
        twice: it is differentiated again, by what `draw` made the value of.
        apart: the slope in one lane depends on no other lane, for estimators that are not linear in it. It then leaves
            out how draws further down react.

    Example:
        >>> from varigrad.estimators import Rebar, Score
        >>> Rebar().needs.slope, Score().needs.slope
        (Slope(twice=True, apart=False), None)
    """

    twice: bool = False
    apart: bool = False


@dataclass(frozen=True)
class Needs:
    """Properties that an estimator needs of the cost and of the densities in it.

    Attributes:
        cost: `surrogate` is called with the site's cost; if not, the terms are differentiated through the draw.
        per_element: the cost is separate for each element of the site's plates, because the alternatives of all
            elements vary together though they are no joint draw.
        across_particles: `surrogate` gets the costs of all particles at once, along the dimension `draw.particles`, and
            sums over them.
        between_values: costs are evaluated between the values of a discrete support. Densities of the site's own value
            are then continued there, linearly in each coordinate.
        differentiable: every cost is differentiable in the value; a stepped one would bias the estimator.
        slope: the cost's derivative by the value, in `draw.slope`; None: not needed.
        constant_density: the site's own density is evaluated at parameters that are held constant ("sticking the
            landing").

    Example:
        >>> from varigrad.estimators import Pathwise, Score
        >>> Pathwise().needs.cost, Score().needs.cost
        (False, True)
    """

    cost: bool = True
    per_element: bool = False
    across_particles: bool = False
    between_values: bool = False
    differentiable: bool = False
    slope: Slope | None = None
    constant_density: bool = False


@dataclass(frozen=True)
class Promises:
    """Properties that an estimator guarantees; `varigrad.testing.check_estimator` tests them.

    Attributes:
        unbiased: the mean of its gradient is the gradient of the bound.

    Example:
        >>> from varigrad.estimators import Score, StraightThrough
        >>> StraightThrough().promises.unbiased, Score().promises.unbiased
        (False, True)
    """

    unbiased: bool = True


_FORMER_FLAGS = {
    "pathwise": "drawing = Drawing(pathwise={})",
    "partial": "drawing = Drawing(partial={})",
    "coupling": "drawing = Drawing(coupling={})",
    "needs_cost": "needs = Needs(cost={})",
    "per_element": "needs = Needs(per_element={})",
    "across_particles": "needs = Needs(across_particles={})",
    "relaxes": "needs = Needs(between_values={})",
    "smooth": "needs = Needs(differentiable={})",
    "differentiates": "needs = Needs(slope=Slope())",
    "twice": "needs = Needs(slope=Slope(twice={}))",
    "apart": "needs = Needs(slope=Slope(apart={}))",
    "sticking_the_landing": "needs = Needs(constant_density={})",
    "unbiased": "promises = Promises(unbiased={})",
}
"""Class attributes that are no longer read, and what to write in their place."""


def refuse_former_flags(kind: type) -> None:
    """Check that a class of estimators says nothing by attributes that are no longer read.

    A constructor argument may have such a name, if the class computes the record that replaces it.

    Args:
        kind: a class that derives from `Estimator`.

    Raises:
        SiteError: its body, or that of a class which it mixes in, sets one of the former flags.
    """
    mixed_in = [other for other in kind.__mro__[1:-1] if not hasattr(other, "refusal")]
    for owner in (kind, *mixed_in):
        for name, replacement in _FORMER_FLAGS.items():
            if name not in vars(owner):
                continue
            computed = isinstance(vars(kind).get(replacement.split(" ")[0]), property)
            if computed and name in get_annotations(owner):
                continue
            value = vars(owner)[name]
            shown = "..." if isinstance(value, property) else repr(value)
            raise SiteError(
                f"sets {name}, which is no longer read",
                site=kind.__name__,
                because="what an estimator says about itself is three records, drawing, needs and promises, of "
                "varigrad.estimators",
                try_=replacement.format(shown),
            )
