"""Deep metric learning in JAX/Flax: losses and mining as pure functions, HDML, EPS, training.

The mathematics (`losses`, `mining`, `distances`, `refs`, `hdml`, `types`) needs jax and numpy
alone; the other rooms are imported when they are first asked for.
"""

from typing import TYPE_CHECKING

from jaxdml import _lazy
from jaxdml._version import __version__

if TYPE_CHECKING:
  from jaxdml import (
    data,
    distances,
    drawing,
    errors,
    evaluation,
    hdml,
    inference,
    losses,
    mining,
    models,
    prepare,
    pretrained,
    refs,
    report,
    search,
    training,
    types,
  )

__all__ = [
  "__version__", "data", "distances", "drawing", "errors", "evaluation", "hdml", "inference",
  "losses", "mining", "models", "prepare", "pretrained", "refs", "report", "search", "training",
  "types",
]  # fmt: skip

__getattr__, __dir__ = _lazy.face(__name__, __all__)
