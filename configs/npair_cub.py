"""N-pair loss (Sohn, NIPS 2016) on CUB-200-2011.

python -m jaxdml.main --config=configs/npair_cub.py --workdir=runs/npair_cub

64 classes x 2 images, as HDML's authors train it, without HDML.
Published R@1/2/4/8: 59.0/71.3/81.1/88.8 (ResNet-50, d=128), 50.6/63.3/74.5/83.7 (GoogLeNet, d=512),
by github.com/Confusezius/Deep-Metric-Learning-Baselines, whose schedule is that of the protocol
fair; selected on the test classes.
Ours: not run here. Cost: not measured here. ImageNet's weights: see configs/common.py.
Variants, in configs/common.py: :eps :hdml :eps,hdml,fair
Data: jaxdml prepare cub200_2011 --source=DIR_WITH_CUB_200_2011.tgz
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
  """N-pair loss with what `arg` adds; see configs/common.py."""
  return common.photos("cub", "npair", arg)
