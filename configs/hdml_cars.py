"""HDML (arXiv 1903.05503) on Cars196: the N-pair form, or another.

python -m jaxdml.main --config=configs/hdml_cars.py --workdir=runs/hdml_cars

Published (N-pair, ImageNet-pretrained GoogLeNet): R@1/2/4/8 79.1/87.1/92.1/95.5.
Ours: not run here. Cost: not measured here. ImageNet's weights: see configs/common.py.
Variants, in configs/common.py: :triplet :triplet,eps :paper :code :fair :margin,eps,fair
Data: jaxdml prepare cars196 --source=DIR_WITH_THE_ARCHIVES
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
  """N-pair unless `arg` names a loss; see configs/common.py."""
  return common.photos("cars", "hdml", arg, loss="npair")
