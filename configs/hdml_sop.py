"""HDML (arXiv 1903.05503) on Stanford Online Products: the N-pair form, or another.

python -m jaxdml.main --config=configs/hdml_sop.py --workdir=runs/hdml_sop

Published (N-pair, ImageNet-pretrained GoogLeNet): R@1/10/100 68.7/83.2/92.4. The authors' code
fixes beta for this data set; the paper gives the 512-d embedding; the rest is as on CUB, for want
of better.
Ours: not run here. Cost: not measured here. ImageNet's weights: see configs/common.py.
Variants, in configs/common.py: :triplet :triplet,eps :paper :code :fair :margin,eps,fair
Data: jaxdml prepare stanford_online_products --source=DIR_WITH_THE_ZIP
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str = "") -> ConfigDict:
  """N-pair unless `arg` names a loss; see configs/common.py."""
  return common.photos("sop", "hdml", arg, loss="npair")
