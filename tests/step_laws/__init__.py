"""Fast laws of the step, to which `tests/mutants/` holds mutants. `tests/test_step_law.py` has the whole table."""

from step_laws import groups as groups
from step_laws import steps as steps
from step_laws.base import LAWS as LAWS
