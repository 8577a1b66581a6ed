"""Diagnostics of gradient estimators: compares their bias, variance and cost on a program, and recommends one."""

from varigrad.diagnostics.auto_select import decide as decide
from varigrad.diagnostics.comparison import compare as compare
from varigrad.diagnostics.measurements import Measured as Measured
from varigrad.diagnostics.measurements import Row as Row
from varigrad.diagnostics.report import Comparison as Comparison
