"""The logger that Pyro's programs write to."""

import logging

log = logging.getLogger("pyro")
