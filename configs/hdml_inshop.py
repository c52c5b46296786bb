"""HDML, N-pair form, on In-Shop Clothes Retrieval (arXiv 1903.05503's method; not in that paper).

python -m jaxdml.main --config=configs/hdml_inshop.py --workdir=runs/hdml_inshop

Published: nothing for HDML; the hyperparameters are those for SOP. Ours: not run here.
Queries are ranked against the gallery, as the data set's protocol has it.
Data: python -m jaxdml.data.prepare inshop --source=DIR_WITH_img.zip_AND_list_eval_partition.txt
"""

from ml_collections import ConfigDict

from configs import hdml_sop


def get_config() -> ConfigDict:
  """SOP's protocol on clothes; K of Recall@K as usual there."""
  config = hdml_sop.get_config()
  config.data.dataset = "inshop"
  config.data.label = "label"
  config.eval.ks = (1, 10, 20, 30)
  return config
