"""N-pair loss (Sohn, NIPS 2016) on Stanford Online Products.

python -m jaxdml.main --config=configs/npair_sop.py --workdir=runs/npair_sop

64 classes x 2 images, as HDML's authors train it, without HDML.
Published R@1/10/100/1000: 70.9/85.2/93.8/98.2 (ResNet-50, d=128), 63.4/80.1/91.3/97.4 (GoogLeNet,
d=512), by github.com/Confusezius/Deep-Metric-Learning-Baselines, whose schedule is that of the
protocol fair; selected on the test classes.
Ours: not run here. Cost: not measured here. ImageNet's weights: see configs/common.py.
Variants, in configs/common.py: :eps :hdml :eps,hdml,fair
Data: jaxdml prepare stanford_online_products --source=DIR_WITH_THE_ZIP
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
  """N-pair loss with what `arg` adds; see configs/common.py."""
  return common.photos("sop", "npair", arg)
