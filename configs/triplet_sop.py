"""Triplet loss on Stanford Online Products.

python -m jaxdml.main --config=configs/triplet_sop.py --workdir=runs/triplet_sop

40 sampled triplets, margin 1, summed, as HDML's authors train it, without HDML. The protocol fair
has semihard negatives, margin 0.2.
Published R@1/10/100/1000: 74.0/87.4/94.8/98.4 (ResNet-50, d=128), 66.1/81.8/91.7/97.5 (GoogLeNet,
d=512), by github.com/Confusezius/Deep-Metric-Learning-Baselines, whose schedule is that of the
protocol fair; selected on the test classes.
Ours: not run here. Cost: not measured here. ImageNet's weights: see configs/common.py.
Variants, in configs/common.py: :eps :hdml :eps,hdml,fair
Data: jaxdml prepare stanford_online_products --source=DIR_WITH_THE_ZIP
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
  """Triplet loss with what `arg` adds; see configs/common.py."""
  return common.photos("sop", "triplet", arg)
