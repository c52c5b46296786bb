"""N-pair loss (Sohn, NIPS 2016) on In-Shop Clothes Retrieval.

python -m jaxdml.main --config=configs/npair_inshop.py --workdir=runs/npair_inshop

64 classes x 2 images, as HDML's authors train it, without HDML. Queries are ranked against the
gallery.
Published R@1/10/20/30: 80.9/95.0/96.6/97.5 (ResNet-50, d=128), 75.7/92.6/95.1/96.2 (GoogLeNet,
d=512), by github.com/Confusezius/Deep-Metric-Learning-Baselines, whose schedule is that of the
protocol fair; selected on the test classes.
Ours: not run here. Cost: not measured here. ImageNet's weights: see configs/common.py.
Variants, in configs/common.py: :eps :hdml :eps,hdml,fair
Data: jaxdml prepare inshop --source=DIR_WITH_img.zip_AND_list_eval_partition.txt
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
  """N-pair loss with what `arg` adds; see configs/common.py."""
  return common.photos("inshop", "npair", arg)
