"""Hidden Markov distributions: sequences of observations whose hidden states are summed out."""

from varigrad.distributions.hidden_markov.discrete import DiscreteHMM as DiscreteHMM
from varigrad.distributions.hidden_markov.gamma_gaussian import GammaGaussianHMM as GammaGaussianHMM
from varigrad.distributions.hidden_markov.gaussian import GaussianHMM as GaussianHMM
from varigrad.distributions.hidden_markov.independent import IndependentHMM as IndependentHMM
from varigrad.distributions.hidden_markov.linear import LinearHMM as LinearHMM
