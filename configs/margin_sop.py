"""Margin loss, distance-weighted negatives (arXiv 1706.07567), on Stanford Online Products.

python -m jaxdml.main --config=configs/margin_sop.py --workdir=runs/margin_sop

32 classes x 4 images, beta learned.
Published R@1/10/100/1000: 76.1/88.7/95.1/98.3 (ResNet-50, d=128), 68.2/82.4/91.6/97.1 (GoogLeNet,
d=512), by github.com/Confusezius/Deep-Metric-Learning-Baselines, whose schedule is that of the
protocol fair; selected on the test classes.
Ours: not run here. Cost: not measured here. ImageNet's weights: see configs/common.py.
Variants, in configs/common.py: :eps :hdml :eps,hdml,fair
Data: jaxdml prepare stanford_online_products --source=DIR_WITH_THE_ZIP
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
  """Margin loss with what `arg` adds; see configs/common.py."""
  return common.photos("sop", "margin", arg)
