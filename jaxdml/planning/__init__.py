"""Plans: what a training step needs on a chip that is not here, as that chip's compiler says.

`plan(config, target)` compiles a config's step for a TPU slice or GPUs on a machine without any;
`measure(config)` times it on the devices that are here.
"""

from typing import TYPE_CHECKING

from jaxdml import _lazy

if TYPE_CHECKING:
  from jaxdml.planning.measured import Measured, measure
  from jaxdml.planning.plans import Plan, plan
  from jaxdml.planning.program_cost import Cost, cost_of
  from jaxdml.planning.targets import CHIPS, Chip, PlanError, Target, name_of, target

__all__ = [
  "CHIPS", "Chip", "Cost", "Measured", "Plan", "PlanError", "Target", "cost_of", "measure",
  "name_of", "plan", "target",
]  # fmt: skip

__getattr__, __dir__ = _lazy.face(
  __name__, __all__, measured="Measured measure", plans="Plan plan", program_cost="Cost cost_of",
  targets="CHIPS Chip PlanError Target name_of target",
)  # fmt: skip
