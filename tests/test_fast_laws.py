"""The fast laws that mutants are held to (`make mutants`) hold for the source."""

import pytest
from laws import LAWS


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", LAWS)
def test_law(name):
    LAWS[name]()
