"""A registry of small programs whose exact gradients are known, for holding estimators to account.

Every site under test is named `z…`. Programs with finite guides are enumerated (`finite.py`); the others bring their
bound, in closed form or by quadrature, as a function of the parameters (`closed.py`).
"""

from __future__ import annotations

from varigrad.testing.case import Case
from varigrad.testing.closed import CLOSED
from varigrad.testing.finite import FINITE

PROGRAMS: dict[str, Case] = {**FINITE, **CLOSED}
