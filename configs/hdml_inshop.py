"""HDML (arXiv 1903.05503) on In-Shop Clothes Retrieval: the N-pair form, or another.

python -m jaxdml.main --config=configs/hdml_inshop.py --workdir=runs/hdml_inshop

Queries are ranked against the gallery.
Published: nothing for HDML, which its paper does not try here; the hyperparameters are those for
SOP.
Ours: not run here. Cost: not measured here. ImageNet's weights: see configs/common.py.
Variants, in configs/common.py: :triplet :triplet,eps :paper :code :fair :margin,eps,fair
Data: jaxdml prepare inshop --source=DIR_WITH_img.zip_AND_list_eval_partition.txt
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
  """N-pair unless `arg` names a loss; see configs/common.py."""
  return common.photos("inshop", "hdml", arg, loss="npair")
