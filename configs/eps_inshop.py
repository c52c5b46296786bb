"""Easy positive sampling (EPS, arXiv 2006.05162) on In-Shop Clothes Retrieval.

python -m jaxdml.main --config=configs/eps_inshop.py --workdir=runs/eps_inshop

Margin loss unless the argument names another; the positive of an anchor is its nearest among the
batch's three. Queries are ranked against the gallery.
Published: the paper's tables, in a setting that we could not check, so none is copied here.
Ours: not run here. Cost: not measured here. ImageNet's weights: see configs/common.py.
Variants, in configs/common.py: :triplet :multisimilarity,fair :hdml
Data: jaxdml prepare inshop --source=DIR_WITH_img.zip_AND_list_eval_partition.txt
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
  """Margin loss unless `arg` names another; see configs/common.py."""
  return common.photos("inshop", "eps", arg, loss="margin")
