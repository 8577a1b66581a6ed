"""Normalizing flows: transforms with trainable parameters.

flow = vg.distributions.flows.spline_coupling(2)
vg.module("flow", flow)
vg.sample("z", dist.TransformedDistribution(dist.Normal(torch.zeros(2), 1.0).to_event(1), [flow]))
"""

from varigrad.distributions.flows.autoregressive import AffineAutoregressive as AffineAutoregressive
from varigrad.distributions.flows.autoregressive import affine_autoregressive as affine_autoregressive
from varigrad.distributions.flows.base import ComposeTransformModule as ComposeTransformModule
from varigrad.distributions.flows.base import TransformModule as TransformModule
from varigrad.distributions.flows.batch_norm import BatchNorm as BatchNorm
from varigrad.distributions.flows.batch_norm import batchnorm as batchnorm
from varigrad.distributions.flows.contractions import Householder as Householder
from varigrad.distributions.flows.contractions import Planar as Planar
from varigrad.distributions.flows.contractions import Radial as Radial
from varigrad.distributions.flows.contractions import Sylvester as Sylvester
from varigrad.distributions.flows.contractions import householder as householder
from varigrad.distributions.flows.contractions import planar as planar
from varigrad.distributions.flows.contractions import radial as radial
from varigrad.distributions.flows.contractions import sylvester as sylvester
from varigrad.distributions.flows.coupling import AffineCoupling as AffineCoupling
from varigrad.distributions.flows.coupling import affine_coupling as affine_coupling
from varigrad.distributions.flows.splines import Spline as Spline
from varigrad.distributions.flows.splines import SplineAutoregressive as SplineAutoregressive
from varigrad.distributions.flows.splines import SplineCoupling as SplineCoupling
from varigrad.distributions.flows.splines import spline as spline
from varigrad.distributions.flows.splines import spline_autoregressive as spline_autoregressive
from varigrad.distributions.flows.splines import spline_coupling as spline_coupling
