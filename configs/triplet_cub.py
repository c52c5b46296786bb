"""Triplet loss on CUB-200-2011.

python -m jaxdml.main --config=configs/triplet_cub.py --workdir=runs/triplet_cub

40 sampled triplets, margin 1, summed, as HDML's authors train it, without HDML. The protocol fair
has semihard negatives, margin 0.2.
Published R@1/2/4/8: 61.4/73.3/82.7/89.6 (ResNet-50, d=128), 56.8/68.9/78.7/86.7 (GoogLeNet, d=512),
by github.com/Confusezius/Deep-Metric-Learning-Baselines, whose schedule is that of the protocol
fair; selected on the test classes.
Ours: not run here. Cost: not measured here. ImageNet's weights: see configs/common.py.
Variants, in configs/common.py: :eps :hdml :eps,hdml,fair
Data: jaxdml prepare cub200_2011 --source=DIR_WITH_CUB_200_2011.tgz
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
  """Triplet loss with what `arg` adds; see configs/common.py."""
  return common.photos("cub", "triplet", arg)
