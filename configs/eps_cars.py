"""Easy positive sampling (EPS, arXiv 2006.05162) on Cars196, around the margin loss.

python -m jaxdml.main --config=configs/eps_cars.py --workdir=runs/eps_cars

The positive of an anchor is its nearest among the batch's three. The schedule is HDML's published
one, weight decay outside the loss.
Published: the paper's tables, in a setting that we could not check, so none is copied here.
Measured: not run here. Cost: not measured here.
Data: jaxdml prepare cars196 --source=DIR_WITH_THE_ARCHIVES
Weights: ImageNet's GoogLeNet is not ours to ship: convert it as docs/encoders.md says and add
--config.encoder.init=DIR. From random weights expect far less.
Other forms: configs/eps_cars.py:multisimilarity,fair, or any arguments of configs/grid.py.
"""

from ml_collections import ConfigDict

from configs import grid
from jaxdml.training import defaults


def get_config(arg: str = "") -> ConfigDict:
  """The page below; with an argument, that form of EPS by configs/grid.py."""
  if arg:
    return grid.get_config(f"cars,eps,{arg}", loss="margin")
  config = defaults.get_config()

  config.data.dataset = "cars196"
  config.data.preprocess = "hdml"  # warped to 256 pixels, a crop of 227, flipped; Caffe's means
  config.data.image_size = 227
  config.data.channels = 3
  config.data.sampler = "pk"  # 32 classes x 4 images
  config.data.images_per_class = 4
  config.data.batch_size = 128
  config.data.num_workers = 8

  config.encoder.name = "googlenet"
  config.encoder.dtype = "auto"  # bfloat16, on a CPU float32
  config.embedding.dim = 128

  config.loss.name = "margin"
  config.loss.learnable_beta = "scalar"
  config.loss.reducer = "mean_elements"
  config.mining.positive = "nearest_positive"  # EPS
  config.mining.negative = "distance_weighted_negative"

  config.optimizer.learning_rate = 7e-5  # encoder and embedding
  config.optimizer.loss_learning_rate = 1e-3  # beta
  config.optimizer.weight_decay = 5e-3
  config.optimizer.weight_decay_in_loss = False
  config.optimizer.schedule = "step"
  config.optimizer.milestones = ("5632 steps", "6848 steps")
  config.optimizer.decay_factor = 0.5

  config.train.duration = "8000 steps"
  config.train.evaluate_every = "500 steps"
  config.train.checkpoint_every = "500 steps"
  config.eval.select_by = "recall@1"  # on the TEST classes, as HDML's authors did it: optimistic
  config.eval.raw_pixels = False
  return config
