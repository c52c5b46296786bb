"""Multi-similarity loss (arXiv 1904.06627) on CUB-200-2011.

python -m jaxdml.main --config=configs/multisimilarity_cub.py --workdir=runs/ms_cub

32 classes x 4 images, the paper's pair mining.
Published: none that we know for these protocols; the paper's figures are with BN-Inception.
Ours: not run here. Cost: not measured here. ImageNet's weights: see configs/common.py.
Variants, in configs/common.py: :eps :hdml :eps,hdml,fair
Data: jaxdml prepare cub200_2011 --source=DIR_WITH_CUB_200_2011.tgz
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
  """Multi-similarity loss with what `arg` adds; see configs/common.py."""
  return common.photos("cub", "multisimilarity", arg)
