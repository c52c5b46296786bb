"""Multi-similarity loss (arXiv 1904.06627) on In-Shop Clothes Retrieval.

python -m jaxdml.main --config=configs/multisimilarity_inshop.py --workdir=runs/ms_inshop

32 classes x 4 images, the paper's pair mining. Queries are ranked against the gallery.
Published: none that we know for these protocols; the paper's figures are with BN-Inception.
Ours: not run here. Cost: not measured here. ImageNet's weights: see configs/common.py.
Variants, in configs/common.py: :eps :hdml :eps,hdml,fair
Data: jaxdml prepare inshop --source=DIR_WITH_img.zip_AND_list_eval_partition.txt
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
  """Multi-similarity loss with what `arg` adds; see configs/common.py."""
  return common.photos("inshop", "multisimilarity", arg)
