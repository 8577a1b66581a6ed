"""Where laws of the step are collected."""

from collections.abc import Callable

LAWS: dict[str, Callable[[], None]] = {}
WAIT = 12


def law(function):
    LAWS[function.__name__.replace("_", " ")] = function
    return function


def raises(kind, text, function):
    try:
        function()
    except kind as error:
        assert text in str(error), error
    else:
        raise AssertionError(f"no {kind.__name__}")
