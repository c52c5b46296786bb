"""HDML (arXiv 1903.05503) on CUB-200-2011: the N-pair form, or another.

python -m jaxdml.main --config=configs/hdml_cub.py --workdir=runs/hdml_cub

Published (N-pair, ImageNet-pretrained GoogLeNet): R@1/2/4/8 53.7/65.7/76.7/85.7, there with a 512-d
embedding; the authors' code uses 256.
Ours: not run here. Cost: not measured here. ImageNet's weights: see configs/common.py.
Variants, in configs/common.py: :triplet :triplet,eps :paper :code :fair :margin,eps,fair
Data: jaxdml prepare cub200_2011 --source=DIR_WITH_CUB_200_2011.tgz
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
  """N-pair unless `arg` names a loss; see configs/common.py."""
  return common.photos("cub", "hdml", arg, loss="npair")
