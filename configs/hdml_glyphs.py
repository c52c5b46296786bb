"""HDML on the bundled glyphs, tested on letters that training never saw.

python -m jaxdml.main --config=configs/hdml_glyphs.py --workdir=runs/hdml_glyphs

N-pair loss over all pairs of 32 classes x 4 images; 16 synthetic partners an anchor.
Cost: about 2.5 minutes on 2 CPU cores. Published: nothing, the data set comes with jaxdml.
Measured (3 seeds, docs/results.md): R@1 .682, MAP@R .475, NMI .896; raw pixels .419, .175, .749.
Without HDML (--config.hdml.enabled=False) .689, .478, .897: it changes nothing beyond the seeds.
With EPS (--config.mining.positive=nearest_positive) .653, .428, .880.
Other forms, as configs/hdml_glyphs.py:triplet,eps: an argument names what goes with HDML, of
configs/grid.py.
"""

from ml_collections import ConfigDict

from configs import grid
from jaxdml.training import defaults


def get_config(arg: str = "") -> ConfigDict:
  """The page below; with an argument, that form of HDML by configs/grid.py."""
  if arg:
    return grid.get_config(f"glyphs,hdml,{arg}")
  config = defaults.get_config()

  config.data.dataset = "glyphs"
  config.data.image_size = 32
  config.data.sampler = "pk"  # 32 classes x 4 images
  config.data.images_per_class = 4
  config.data.batch_size = 128

  config.encoder.name = "convnet"
  config.embedding.dim = 128
  config.embedding.kernel_scale = 0.3

  config.loss.name = "npair"
  config.loss.layout = "all_pairs"

  config.hdml.enabled = True
  config.hdml.alpha = 1.0  # in units of the loss: the published 90 counts the weight decay in it
  config.hdml.beta = 0.3  # in units of J_gen, here a mean
  config.hdml.slots = 16
  config.hdml.reconstruction_weight = 0.5
  config.hdml.soft_weight = 0.5
  config.hdml.sum_reconstruction = False
  config.hdml.weighted_average = False

  config.optimizer.learning_rate = 1e-3
  config.optimizer.generator_learning_rate = 1e-3
  config.optimizer.head_learning_rate = 1e-3
  config.optimizer.schedule = "cosine"

  config.train.duration = "1500 steps"
  config.train.evaluate_every = "300 steps"
  config.train.checkpoint_every = "300 steps"
  config.train.log_every = "50 steps"
  config.eval.validation_fraction = 0.1  # of the training classes, to choose the checkpoint by
  return config
