"""Pyro's objectives, `SVI` and `Predictive`, on top of varigrad's."""

from varigrad.compat.pyro.infer import autoguide as autoguide
from varigrad.compat.pyro.infer import inspect as inspect
from varigrad.compat.pyro.infer import reparam as reparam
from varigrad.compat.pyro.infer.discrete import TraceEnumSample_ELBO as TraceEnumSample_ELBO
from varigrad.compat.pyro.infer.discrete import infer_discrete as infer_discrete
from varigrad.compat.pyro.infer.elbo import ELBO as ELBO
from varigrad.compat.pyro.infer.enum import config_enumerate as config_enumerate
from varigrad.compat.pyro.infer.predictive import Predictive as Predictive
from varigrad.compat.pyro.infer.renyi_elbo import RenyiELBO as RenyiELBO
from varigrad.compat.pyro.infer.svi import SVI as SVI
from varigrad.compat.pyro.infer.trace_elbo import JitTrace_ELBO as JitTrace_ELBO
from varigrad.compat.pyro.infer.trace_elbo import Trace_ELBO as Trace_ELBO
from varigrad.compat.pyro.infer.trace_mean_field_elbo import JitTraceMeanField_ELBO as JitTraceMeanField_ELBO
from varigrad.compat.pyro.infer.trace_mean_field_elbo import TraceMeanField_ELBO as TraceMeanField_ELBO
from varigrad.compat.pyro.infer.traceenum_elbo import JitTraceEnum_ELBO as JitTraceEnum_ELBO
from varigrad.compat.pyro.infer.traceenum_elbo import TraceEnum_ELBO as TraceEnum_ELBO
from varigrad.compat.pyro.infer.tracegraph_elbo import JitTraceGraph_ELBO as JitTraceGraph_ELBO
from varigrad.compat.pyro.infer.tracegraph_elbo import TraceGraph_ELBO as TraceGraph_ELBO
from varigrad.compat.pyro.infer.tracetmc_elbo import TraceTMC_ELBO as TraceTMC_ELBO
from varigrad.compat.pyro.infer.util import enable_validation as enable_validation
from varigrad.compat.pyro.infer.util import is_validation_enabled as is_validation_enabled
