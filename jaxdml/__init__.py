"""Deep metric learning in JAX/Flax: losses and mining as pure functions, HDML, EPS, training."""

from jaxdml import distances as distances
from jaxdml import losses as losses
from jaxdml import mining as mining
from jaxdml import refs as refs
from jaxdml import types as types
from jaxdml._version import __version__ as __version__

__all__ = ["__version__", "distances", "losses", "mining", "refs", "types"]
