"""The gradient doctor: which estimators are right for a program, and which of them is cheapest for its noise."""

from varigrad.diagnostics.auto_select import decide as decide
from varigrad.diagnostics.comparison import compare as compare
from varigrad.diagnostics.measurements import Measured as Measured
from varigrad.diagnostics.measurements import Row as Row
from varigrad.diagnostics.report import Comparison as Comparison
