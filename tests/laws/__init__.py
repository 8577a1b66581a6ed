"""Fast laws of the gradient machinery: what `tests/mutants/` holds mutants to, and pytest the source.

Nearly all are exact: every outcome of the draws is run, Normal draws are Gauss-Hermite nodes. A law is a function
without arguments that raises `AssertionError` if it is broken; each file has those of one subject.
"""

from laws import baselines as baselines
from laws import continuous as continuous
from laws import control_variates as control_variates
from laws import couplings as couplings
from laws import density_jumps as density_jumps
from laws import dependencies as dependencies
from laws import divergences as divergences
from laws import draws as draws
from laws import estimators as estimators
from laws import invariances as invariances
from laws import mixing as mixing
from laws import networks as networks
from laws import partly_reparameterised as partly_reparameterised
from laws import registered_estimators as registered_estimators
from laws import relaxations as relaxations
from laws import uniform_numbers as uniform_numbers
from laws.base import LAWS as LAWS
from laws.base import law as law

# isort: split
from laws import compiled_callables as compiled_callables  # last, because it loads the compiler
