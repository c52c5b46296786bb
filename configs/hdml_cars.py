"""HDML, N-pair form, on Cars196 (arXiv 1903.05503; hyperparameters of the authors' code).

python -m jaxdml.main --config=configs/hdml_cars.py --workdir=runs/hdml_cars

Published (ImageNet-pretrained GoogLeNet): R@1/2/4/8 79.1/87.1/92.1/95.5. Ours: not run here. For
that start add --config.encoder.init=DIR, Caffe's weights as docs/encoders.md converts them; from
random ones expect far less.
Data: python -m jaxdml.data.prepare cars196 --source=DIR_WITH_THE_ARCHIVES
"""

from ml_collections import ConfigDict

from jaxdml.training import defaults


def get_config() -> ConfigDict:
  """The published protocol: 64 classes x 2 images, 8,000 steps."""
  config = defaults.get_config()
  config.data.dataset = "cars196"
  config.data.preprocess = "hdml"
  config.data.image_size = 227
  config.data.channels = 3
  config.data.batch_size = 128
  config.data.sampler = "npair"
  config.data.images_per_class = 2
  config.data.num_workers = 8
  config.encoder.name = "googlenet"
  config.embedding.dim = 128
  config.loss.name = "npair"
  config.loss.layout = "npair"
  config.loss.options.l2_reg = 3e-3
  config.hdml.enabled = True
  config.hdml.alpha = 90.0
  config.hdml.beta = 1e4
  config.optimizer.learning_rate = 7e-5
  config.optimizer.generator_learning_rate = 1e-2
  config.optimizer.head_learning_rate = 1e-3
  config.optimizer.weight_decay = 5e-3
  config.optimizer.weight_decay_in_loss = True
  config.optimizer.schedule = "step"
  config.optimizer.milestones = ("5632 steps", "6848 steps")
  config.train.duration = "8000 steps"
  config.train.evaluate_every = "500 steps"
  config.train.checkpoint_every = "500 steps"
  config.eval.select_by = "recall@1"
  config.eval.raw_pixels = False
  return config
