"""HDML, N-pair form, on Stanford Online Products (arXiv 1903.05503).

python -m jaxdml.main --config=configs/hdml_sop.py --workdir=runs/hdml_sop

Published (ImageNet-pretrained GoogLeNet): R@1/10/100 68.7/83.2/92.4. The authors' code fixes beta
for this data set; the paper gives the 512-d embedding; the rest is as on CUB, for want of better.
Ours: not run here.
Data: python -m jaxdml.data.prepare stanford_online_products --source=DIR_WITH_THE_ZIP
"""

from ml_collections import ConfigDict

from configs import hdml_cub


def get_config() -> ConfigDict:
  """CUB's protocol on products; K of Recall@K as usual there."""
  config = hdml_cub.get_config()
  config.data.dataset = "stanford_online_products"
  config.data.label = "class_id"
  config.embedding.dim = 512
  config.eval.ks = (1, 10, 100, 1000)
  return config
