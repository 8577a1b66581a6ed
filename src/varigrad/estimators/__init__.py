"""Gradient estimators, one family a file, and the baselines that go with them."""

from varigrad.estimators.base import Draw as Draw
from varigrad.estimators.base import Estimator as Estimator
from varigrad.estimators.base import Lanes as Lanes
from varigrad.estimators.base import Surrogate as Surrogate
from varigrad.estimators.baselines import Baseline as Baseline
from varigrad.estimators.baselines import Combination as Combination
from varigrad.estimators.baselines import MovingAverage as MovingAverage
from varigrad.estimators.baselines import NeuralBaseline as NeuralBaseline
from varigrad.estimators.baselines import NoBaseline as NoBaseline
from varigrad.estimators.baselines import ValueBaseline as ValueBaseline
from varigrad.estimators.coupled import ARM as ARM
from varigrad.estimators.coupled import ARMS as ARMS
from varigrad.estimators.coupled import DisARM as DisARM
from varigrad.estimators.enumeration import Enumerate as Enumerate
from varigrad.estimators.leave_one_out import LeaveOneOut as LeaveOneOut
from varigrad.estimators.local import LocalExpectation as LocalExpectation
from varigrad.estimators.measure_valued import MeasureValued as MeasureValued
from varigrad.estimators.optimal import OptimalScore as OptimalScore
from varigrad.estimators.pathwise import Pathwise as Pathwise
from varigrad.estimators.rebar import Rebar as Rebar
from varigrad.estimators.score import Score as Score
from varigrad.estimators.score import SelfCritical as SelfCritical
from varigrad.estimators.stochastic_ad import StochasticAD as StochasticAD
from varigrad.estimators.taylor import MuProp as MuProp
from varigrad.estimators.without_replacement import SumAndSample as SumAndSample
from varigrad.estimators.without_replacement import UnorderedSet as UnorderedSet
