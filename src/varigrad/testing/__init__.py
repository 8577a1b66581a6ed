"""Tools for testing gradients: exact expectations, a registry of programs, a conformance suite, score-only twins."""

from varigrad.testing.case import Case as Case
from varigrad.testing.conformance import Conformance as Conformance
from varigrad.testing.conformance import Verdict as Verdict
from varigrad.testing.conformance import check_case as check_case
from varigrad.testing.conformance import check_estimator as check_estimator
from varigrad.testing.exact import Moments as Moments
from varigrad.testing.exact import exact_gradient as exact_gradient
from varigrad.testing.exact import expected_gradient as expected_gradient
from varigrad.testing.exact import gradient_of as gradient_of
from varigrad.testing.exact import largest_difference as largest_difference
from varigrad.testing.fakes import NonreparameterizedBeta as NonreparameterizedBeta
from varigrad.testing.fakes import NonreparameterizedDirichlet as NonreparameterizedDirichlet
from varigrad.testing.fakes import NonreparameterizedGamma as NonreparameterizedGamma
from varigrad.testing.fakes import NonreparameterizedNormal as NonreparameterizedNormal
from varigrad.testing.programs import PROGRAMS as PROGRAMS
from varigrad.testing.step import assert_step as assert_step
from varigrad.testing.unbiased import assert_unbiased as assert_unbiased
