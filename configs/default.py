"""The defaults, as a config of their own: N-pair loss on the bundled glyphs.

python -m jaxdml.main --config=configs/default.py --workdir=runs/default

Published: nothing, the data set comes with jaxdml. Measured: not run here at this length; 1,500
steps with configs/grid.py:npair,glyphs are in docs/results.md. Cost: not measured here.
Every key is documented where it is defined, in jaxdml/training/defaults.py.
"""

from ml_collections import ConfigDict

from jaxdml.training import defaults


def get_config() -> ConfigDict:
  """The defaults; what is set here is what they are, for a page to start from."""
  config = defaults.get_config()

  config.data.dataset = "glyphs"
  config.data.image_size = 32
  config.data.sampler = "pk"  # 32 classes x 4 images
  config.data.images_per_class = 4
  config.data.batch_size = 128

  config.encoder.name = "convnet"
  config.embedding.dim = 128

  config.loss.name = "npair"
  config.mining.positive = "all_positives"
  config.mining.negative = "all_negatives"

  config.optimizer.learning_rate = 1e-3
  config.optimizer.schedule = "constant"
  config.train.duration = "1000 steps"
  return config
