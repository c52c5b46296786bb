"""Triplet loss on Cars196.

python -m jaxdml.main --config=configs/triplet_cars.py --workdir=runs/triplet_cars

40 sampled triplets, margin 1, summed, as HDML's authors train it, without HDML. The protocol fair
has semihard negatives, margin 0.2.
Published R@1/2/4/8: 75.2/84.1/90.0/94.0 (ResNet-50, d=128), 68.4/78.3/85.7/90.8 (GoogLeNet, d=512),
by github.com/Confusezius/Deep-Metric-Learning-Baselines, whose schedule is that of the protocol
fair; selected on the test classes.
Ours: not run here. Cost: not measured here. ImageNet's weights: see configs/common.py.
Variants, in configs/common.py: :eps :hdml :eps,hdml,fair
Data: jaxdml prepare cars196 --source=DIR_WITH_THE_ARCHIVES
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
  """Triplet loss with what `arg` adds; see configs/common.py."""
  return common.photos("cars", "triplet", arg)
