"""Tools for testing gradients: exact expectations, a registry of programs, a conformance suite, and test families."""

from varigrad.gradients.exact import Moments as Moments
from varigrad.gradients.exact import exact_gradient as exact_gradient
from varigrad.gradients.exact import expected_gradient as expected_gradient
from varigrad.gradients.exact import gradient_of as gradient_of
from varigrad.gradients.exact import largest_difference as largest_difference
from varigrad.testing.conformance import Conformance as Conformance
from varigrad.testing.conformance import Verdict as Verdict
from varigrad.testing.conformance import check_case as check_case
from varigrad.testing.conformance import check_estimator as check_estimator
from varigrad.testing.nonreparameterized import NonreparameterizedBeta as NonreparameterizedBeta
from varigrad.testing.nonreparameterized import NonreparameterizedDirichlet as NonreparameterizedDirichlet
from varigrad.testing.nonreparameterized import NonreparameterizedGamma as NonreparameterizedGamma
from varigrad.testing.nonreparameterized import NonreparameterizedNormal as NonreparameterizedNormal
from varigrad.testing.programs import PROGRAMS as PROGRAMS
from varigrad.testing.registered_program import Case as Case
from varigrad.testing.step import assert_step as assert_step
from varigrad.testing.unbiased import assert_unbiased as assert_unbiased
