"""Margin loss, distance-weighted negatives (arXiv 1706.07567), on In-Shop Clothes Retrieval.

python -m jaxdml.main --config=configs/margin_inshop.py --workdir=runs/margin_inshop

32 classes x 4 images, beta learned. Queries are ranked against the gallery.
Published R@1/10/20/30: 84.5/96.1/97.4/97.9 (ResNet-50, d=128), 78.9/91.8/94.2/95.3 (GoogLeNet,
d=512), by github.com/Confusezius/Deep-Metric-Learning-Baselines, whose schedule is that of the
protocol fair; selected on the test classes.
Ours: not run here. Cost: not measured here. ImageNet's weights: see configs/common.py.
Variants, in configs/common.py: :eps :hdml :eps,hdml,fair
Data: jaxdml prepare inshop --source=DIR_WITH_img.zip_AND_list_eval_partition.txt
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
  """Margin loss with what `arg` adds; see configs/common.py."""
  return common.photos("inshop", "margin", arg)
