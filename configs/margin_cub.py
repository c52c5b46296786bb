"""Margin loss, distance-weighted negatives (arXiv 1706.07567), on CUB-200-2011.

python -m jaxdml.main --config=configs/margin_cub.py --workdir=runs/margin_cub

32 classes x 4 images, beta learned.
Published R@1/2/4/8: 63.4/74.9/86.0/90.4 (ResNet-50, d=128), 57.9/69.7/79.9/87.7 (GoogLeNet, d=512),
by github.com/Confusezius/Deep-Metric-Learning-Baselines, whose schedule is that of the protocol
fair; selected on the test classes.
Ours: not run here. Cost: not measured here. ImageNet's weights: see configs/common.py.
Variants, in configs/common.py: :eps :hdml :eps,hdml,fair
Data: jaxdml prepare cub200_2011 --source=DIR_WITH_CUB_200_2011.tgz
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
  """Margin loss with what `arg` adds; see configs/common.py."""
  return common.photos("cub", "margin", arg)
