"""Margin loss, distance-weighted negatives (arXiv 1706.07567), on Cars196.

python -m jaxdml.main --config=configs/margin_cars.py --workdir=runs/margin_cars

32 classes x 4 images, beta learned.
Published R@1/2/4/8: 79.3/87.1/92.1/95.4 (ResNet-50, d=128), 73.7/82.7/89.3/93.9 (GoogLeNet, d=512),
by github.com/Confusezius/Deep-Metric-Learning-Baselines, whose schedule is that of the protocol
fair; selected on the test classes.
Ours: not run here. Cost: not measured here. ImageNet's weights: see configs/common.py.
Variants, in configs/common.py: :eps :hdml :eps,hdml,fair
Data: jaxdml prepare cars196 --source=DIR_WITH_THE_ARCHIVES
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
  """Margin loss with what `arg` adds; see configs/common.py."""
  return common.photos("cars", "margin", arg)
