"""The fast laws that mutants are held to (`make mutants`) hold for the source.

Those of steps are in `test_step_law.py`, the ways out of torch, with more estimators, in `test_leaks.py`, and those of
single estimators on single programs in `test_laws.py`.
"""

import laws_of_runs  # noqa: F401 - its laws join the others
import pytest
from laws import LAWS
from laws.registered_estimators import TESTED


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", [name for name in LAWS if not name.startswith("way out") and name not in TESTED])
def test_law(name):
    LAWS[name]()
