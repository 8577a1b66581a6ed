"""The registry of small programs with known exact gradients, on which estimators are tested.

Every site under test is named `z…`. Programs with finite guides are enumerated (`enumerable_programs.py`); the others
define their bound, in closed form or by quadrature, as a function of the parameters (`closed_form_programs.py`).
"""

from __future__ import annotations

from varigrad.testing.closed_form_programs import CLOSED
from varigrad.testing.enumerable_programs import FINITE
from varigrad.testing.registered_program import Case

PROGRAMS: dict[str, Case] = {**FINITE, **CLOSED}
