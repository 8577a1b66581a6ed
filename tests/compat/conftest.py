"""Every test of Pyro's names starts with an empty parameter store."""

import pytest

import varigrad.compat.pyro as pyro


@pytest.fixture(autouse=True)
def _empty_store():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()
