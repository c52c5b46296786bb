"""HDML, N-pair form, on CUB-200-2011 (arXiv 1903.05503; hyperparameters of the authors' code).

python -m jaxdml.main --config=configs/hdml_cub.py --workdir=runs/hdml_cub

Published (ImageNet-pretrained GoogLeNet): R@1/2/4/8 53.7/65.7/76.7/85.7, there with a 512-d
embedding; the code uses 256. Ours: not run here. Weights: as for configs/hdml_cars.py.
Data: python -m jaxdml.data.prepare cub200_2011 --source=DIR_WITH_CUB_200_2011.tgz
"""

from ml_collections import ConfigDict

from configs import hdml_cars


def get_config() -> ConfigDict:
  """Cars196's protocol with CUB's own rates."""
  config = hdml_cars.get_config()
  config.data.dataset = "cub200_2011"
  config.embedding.dim = 256
  config.loss.options.l2_reg = 1.5e-2
  config.hdml.beta = 5e3
  config.optimizer.learning_rate = 6e-5
  config.optimizer.weight_decay = 1e-3
  return config
