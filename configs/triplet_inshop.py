"""Triplet loss on In-Shop Clothes Retrieval.

python -m jaxdml.main --config=configs/triplet_inshop.py --workdir=runs/triplet_inshop

40 sampled triplets, margin 1, summed, as HDML's authors train it, without HDML. The protocol fair
has semihard negatives, margin 0.2. Queries are ranked against the gallery.
Published R@1/10/20/30: 83.8/96.4/97.6/98.2 (ResNet-50, d=128), 71.5/90.2/93.2/94.5 (GoogLeNet,
d=512), by github.com/Confusezius/Deep-Metric-Learning-Baselines, whose schedule is that of the
protocol fair; selected on the test classes.
Ours: not run here. Cost: not measured here. ImageNet's weights: see configs/common.py.
Variants, in configs/common.py: :eps :hdml :eps,hdml,fair
Data: jaxdml prepare inshop --source=DIR_WITH_img.zip_AND_list_eval_partition.txt
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
  """Triplet loss with what `arg` adds; see configs/common.py."""
  return common.photos("inshop", "triplet", arg)
