"""N-pair loss (Sohn, NIPS 2016) on Cars196.

python -m jaxdml.main --config=configs/npair_cars.py --workdir=runs/npair_cars

64 classes x 2 images, as HDML's authors train it, without HDML.
Published R@1/2/4/8: 69.5/80.2/87.3/92.1 (ResNet-50, d=128), 65.9/76.7/84.5/90.3 (GoogLeNet, d=512),
by github.com/Confusezius/Deep-Metric-Learning-Baselines, whose schedule is that of the protocol
fair; selected on the test classes.
Ours: not run here. Cost: not measured here. ImageNet's weights: see configs/common.py.
Variants, in configs/common.py: :eps :hdml :eps,hdml,fair
Data: jaxdml prepare cars196 --source=DIR_WITH_THE_ARCHIVES
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
  """N-pair loss with what `arg` adds; see configs/common.py."""
  return common.photos("cars", "npair", arg)
