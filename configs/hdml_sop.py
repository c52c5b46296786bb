"""HDML (arXiv 1903.05503) on Stanford Online Products, its N-pair form, as its authors ran it.

python -m jaxdml.main --config=configs/hdml_sop.py --workdir=runs/hdml_sop

Published (ImageNet's GoogLeNet): R@1/10/100 68.7/83.2/92.4. The authors' code fixes beta for this
data set and the paper gives the 512-d embedding; the rest is as on CUB, for want of better.
Measured: not run here. Cost: not measured here.
Data: jaxdml prepare stanford_online_products --source=DIR_WITH_THE_ZIP
Weights: the published start is ImageNet's GoogLeNet, which is not ours to ship: convert it as
docs/encoders.md says and add --config.encoder.init=DIR. From random weights expect far less.
Other forms: configs/hdml_sop.py:triplet,eps,fair, or any arguments of configs/grid.py.
"""

from ml_collections import ConfigDict

from configs import grid
from jaxdml.training import defaults


def get_config(arg: str = "") -> ConfigDict:
  """The page below; with an argument, that form of HDML by configs/grid.py."""
  if arg:
    return grid.get_config(f"sop,hdml,{arg}")
  config = defaults.get_config()

  config.data.dataset = "stanford_online_products"
  config.data.label = "class_id"
  config.data.preprocess = "hdml"  # warped to 256 pixels, a crop of 227, flipped; Caffe's means
  config.data.image_size = 227
  config.data.channels = 3
  config.data.sampler = "npair"  # 64 classes x 2 images
  config.data.images_per_class = 2
  config.data.batch_size = 128
  config.data.num_workers = 8

  config.encoder.name = "googlenet"
  config.encoder.dtype = "auto"  # bfloat16, on a CPU float32
  config.embedding.dim = 512

  config.loss.name = "npair"
  config.loss.layout = "npair"
  config.loss.options.l2_reg = 1.5e-2

  config.hdml.enabled = True
  config.hdml.alpha = 90.0  # negatives are pulled by exp(-alpha / J_avg)
  config.hdml.beta = 5e3  # J_m weighs exp(-beta / J_gen), J_syn the rest

  config.optimizer.learning_rate = 6e-5  # encoder and embedding
  config.optimizer.generator_learning_rate = 1e-2
  config.optimizer.head_learning_rate = 1e-3
  config.optimizer.weight_decay = 1e-3
  config.optimizer.weight_decay_in_loss = True  # an L2 term of J_m, which alpha was chosen with
  config.optimizer.schedule = "step"
  config.optimizer.milestones = ("5632 steps", "6848 steps")
  config.optimizer.decay_factor = 0.5

  config.train.duration = "8000 steps"
  config.train.evaluate_every = "500 steps"
  config.train.checkpoint_every = "500 steps"
  config.eval.ks = (1, 10, 100, 1000)
  config.eval.select_by = "recall@1"  # on the TEST classes, as they did it: optimistic
  config.eval.raw_pixels = False
  return config
