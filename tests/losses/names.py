"""Names of the losses, by whether they learn parameters of their own."""

from jaxdml import losses

TUPLE = [name for name, loss in losses.LOSSES.items() if loss.parameter is None]
PARAMETRIC = [name for name, loss in losses.LOSSES.items() if loss.parameter is not None]
