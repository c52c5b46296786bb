"""Plans: what a training step needs on a chip that is not here, as that chip's compiler says.

`plan(config, target)` compiles a config's step for a TPU slice or GPUs on a machine without any.
"""

from typing import TYPE_CHECKING

from jaxdml import _lazy

if TYPE_CHECKING:
  from jaxdml.planning.plans import Plan, plan
  from jaxdml.planning.program_cost import Cost, cost_of
  from jaxdml.planning.targets import CHIPS, Chip, PlanError, Target, target

__all__ = ["CHIPS", "Chip", "Cost", "Plan", "PlanError", "Target", "cost_of", "plan", "target"]

__getattr__, __dir__ = _lazy.face(
  __name__, __all__, plans="Plan plan", program_cost="Cost cost_of",
  targets="CHIPS Chip PlanError Target target",
)  # fmt: skip
