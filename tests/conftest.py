"""Settings of all tests: one thread, so that timing and rounding do not depend on the machine's load."""

import gc

import pytest
import torch
from hypothesis import settings

from varigrad._torch_internals import has_dynamo_disabled_validation
from varigrad.compile.trace import tracer

for helper in ("c_harness", "cache_attacks", "failing_steps", "families", "interrupting", "resuming", "small_tensors"):
    pytest.register_assert_rewrite(helper)  # what tests call there says as much as an assertion of their own
torch.set_num_threads(1)
settings.register_profile("repeatable", derandomize=True, deadline=None, print_blob=True, database=None)
settings.load_profile("repeatable")


def pytest_collection_finish():
    """Thousands of tests are no garbage: collections during the tests need not go through them again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(20261123)


@pytest.fixture(autouse=True)
def _validation_is_left_as_it_was():
    """Whether torch's distributions validate is a setting of the process: a test that changes it puts it back."""
    torch.distributions.Distribution.set_default_validate_args(True)  # `torch.compile` in a module switched it off
    compiled = has_dynamo_disabled_validation()
    yield
    after = _validation()
    torch.distributions.Distribution.set_default_validate_args(True)
    assert after or has_dynamo_disabled_validation() != compiled, (
        "the test left the validation of distributions switched off"
    )


def _validation():
    """The setting, once no recording in the background has switched it off for a moment."""
    with tracer._VALIDATION:
        return torch.distributions.Distribution._validate_args


class NamesAtOnce:
    """Names a test as soon as it has failed; otherwise pytest shows names at the end, which may be minutes away."""

    def __init__(self, terminal):
        self.terminal = terminal

    @pytest.hookimpl(trylast=True)  # after the letter F
    def pytest_runtest_logreport(self, report):
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            why = crash.message.splitlines()[0][:200] if crash and crash.message else ""
            self.terminal.write_line(f"\nFAILED at {report.when}: {report.nodeid} {why}", red=True)


@pytest.hookimpl(trylast=True)  # pytest's own reporter is registered by then
def pytest_configure(config):
    terminal = config.pluginmanager.getplugin("terminalreporter")
    if terminal is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(NamesAtOnce(terminal), "names-at-once")
