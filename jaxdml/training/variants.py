"""Choices in which HDML's paper and its authors' code part ways, as data (arXiv 1903.05503).

Each `Point` is a config key with its value in each variant. `VARIANTS` is the same as a table;
`config.fill_in` takes from it what a config leaves open, and docs/methods.md shows it.

Three habits of the release are left out: a loss that is NaN counts as 0 there (here it stops the
run); its running variances are the unbiased ones; and in its steps real and synthetic features may
move the running statistics in any order (here the real ones come first).
"""

from collections.abc import Mapping
from typing import NamedTuple

Value = bool | float | str | Mapping[str, bool]
"""A config value; a mapping gives one for each `loss.layout`."""


class Point(NamedTuple):
  """One choice, and who made it how."""

  key: str  # the config key
  paper: Value  # what the paper says; where it is silent, the plainest reading of its formulas
  code: Value  # what the authors' release does
  default: Value  # what jaxdml does unless told: the code's choice, but where that is a trap
  what: str  # the choice in words


_JOINT = {"all_pairs": False, "npair": False, "triplet": True}

POINTS = (
  Point(
    "hdml.window", "1 epochs", "64 steps", "64 steps",
    "J_avg and J_gen are means over the last whole window of steps",
  ),
  Point(
    "hdml.weighted_average", False, True, True,
    "J_avg averages exp(-beta / J_gen) J_m instead of J_m",
  ),
  Point(
    "hdml.reconstruction_weight", 1.0, 0.5, 0.5, "weight of J_recon in J_gen; the code's 1 - 0.5",
  ),
  Point(
    "hdml.soft_weight", 0.5, 5e3, 5e3, "weight of J_soft in J_gen; the code's 1e4 times 0.5",
  ),
  Point(
    "hdml.sum_reconstruction", True, True, True,
    "J_recon sums over the batch; else it is the mean of each example's squared error",
  ),
  Point(
    "hdml.sum_soft", True, False, False, "J_soft sums over all synthetic features; else means",
  ),
  Point(
    "hdml.joint_soft", True, _JOINT, _JOINT,
    "one mean over all synthetic features; else the anchors' mean plus the partners'; idle when "
    "J_soft sums",
  ),
  Point(
    "hdml.synthetic_members", "all", "all", "all",
    "which members of a tuple pass through the generator: all, or negatives alone",
  ),
  Point(
    "hdml.detach", "none", "none", "none", "which gradients of J_syn are stopped on their way back",
  ),
  Point(
    "hdml.synthetic_bn", "own", "own", "own",
    "whose statistics normalise synthetic features in the embedding: their own batch's, or the "
    "real batch's",
  ),
  Point(
    "hdml.running_bn", "real", "both", "real",
    "what moves the embedding's running statistics: real features, or both (as TensorFlow 1's "
    "update operations do)",
  ),
  Point(
    "embedding.bn_momentum", 0.9, 0.99, 0.9,
    "share of the old running statistics that a step keeps in the embedding",
  ),
  Point(
    "loss.options.l2_over", "positives", "references", "positives",
    "N-pair's L2 term, partners it takes: the positives, or all of a tuple (with the code, the "
    "pulled negatives of J_syn too)",
  ),
  Point(
    "optimizer.weight_decay_in_loss", False, True, False,
    "weight decay is an L2 term of J_m: it enters J_avg and is scaled by exp(-beta / J_gen)",
  ),
)  # fmt: skip

VARIANTS: dict[str, dict[str, Value]] = {
  name: {point.key: getattr(point, name) for point in POINTS}
  for name in ("default", "paper", "code")
}
"""Variant -> config key -> value."""
