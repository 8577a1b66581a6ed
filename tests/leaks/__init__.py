"""Ways in which what a random choice was can leave torch, by five kinds, and those that torch's results carry.

Each takes the choice `z`, a tensor without dimensions that is 0.0 or 1.0, and answers with a plain or a tracked tensor
that differs between the two. A gradient that forgets the way is wrong by far more than rounding.
"""

from leaks import calls as calls
from leaks import carried as carried
from leaks import errors as errors
from leaks import gradients as gradients
from leaks import pointers as pointers
from leaks import sizes as sizes
from leaks import writes as writes
from leaks.base import KINDS as KINDS
