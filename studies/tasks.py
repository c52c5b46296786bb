"""Tasks of the suites: what is trained on, for how long, and what is asked for; no loss yet."""

from __future__ import annotations

from collections.abc import Callable

from ml_collections import ConfigDict

from jaxdml.training import defaults


def glyphs() -> ConfigDict:
  """P = 32 classes x K = 4 images of glyphs; a tenth of the training classes validates."""
  config = defaults.get_config()
  config.data.batch_size = 128
  config.data.images_per_class = 4
  config.embedding.dim = 128
  config.embedding.kernel_scale = 0.3
  config.optimizer.schedule = "cosine"
  config.train.duration = "400 steps"
  config.train.evaluate_every = "200 steps"
  config.train.checkpoint_every = "400 steps"
  config.train.log_every = "50 steps"
  config.eval.validation_fraction = 0.1
  config.eval.clustering = False
  return config


def last_of(config: ConfigDict, steps: int) -> None:
  """Nothing to select: evaluated once, after the last step."""
  for key in ("duration", "evaluate_every", "checkpoint_every"):
    config.train[key] = f"{steps} steps"
  config.eval.select_by = "last"


def letters() -> ConfigDict:
  """All training classes, for 400 steps at one learning rate."""
  config = glyphs()
  last_of(config, 400)
  config.eval.validation_fraction = 0.0
  config.optimizer.learning_rate = 4e-3  # what tuning chose for most arms of other suites
  return config


def few_classes() -> ConfigDict:
  """An eighth of the training classes, 109, for 110 epochs: as small and as long as Cars196's."""
  config = glyphs()
  last_of(config, 1500)
  config.eval.validation_fraction = 0.875
  return config


def imagenet() -> ConfigDict:
  """The same classes from ImageNet's weights, as HDML's paper starts, for 18 epochs."""
  config = few_classes()
  last_of(config, 200)
  config.data.image_size = 64
  config.data.channels = 3
  config.encoder.name = "efficientnet_lite0"
  config.encoder.init = "imagenet"
  config.encoder.frozen_bn = True
  config.optimizer.learning_rate = 3e-3  # of 1, 3 and 6e-3 the best on held-out classes
  config.optimizer.encoder_factor = 0.1
  return config


def imagenet_small() -> ConfigDict:
  """The same at 32 pixels, as letters are drawn, in a quarter of the time."""
  config = imagenet()
  config.data.image_size = 32
  return config


def imagenet_tuned() -> ConfigDict:
  """The same, with validation classes to choose by."""
  config = imagenet()
  config.eval.select_by = "map@r"
  return config


def with_encoder(base: Callable[[], ConfigDict], name: str) -> Callable[[], ConfigDict]:
  """The same task with another encoder."""

  def make() -> ConfigDict:
    config = base()
    config.encoder.name = name
    return config

  return make


def digits_from_imagenet() -> ConfigDict:
  """Handwritten digits, searched among those of other writers; scikit-learn's are real."""
  config = imagenet()
  config.data.dataset = "digits"
  config.data.preprocess = "digits"
  config.data.batch_size = 80
  config.data.images_per_class = 8
  config.eval.validation_fraction = 0.0
  last_of(config, 100)
  return config


def base_letters() -> ConfigDict:
  """Trained on the base letter (a, A, á are one), searched by code point."""
  config = glyphs()
  config.data.label = "base_letter"
  config.data.eval_label = "label"
  config.data.images_per_class = 8
  return config


def scripts() -> ConfigDict:
  """Trained on the script, searched by code point: seven classes, none to spare."""
  config = base_letters()
  config.data.label = "script"
  config.data.images_per_class = 32
  config.eval.validation_fraction = 0.0
  last_of(config, 300)
  return config


def parity() -> ConfigDict:
  """Trained on even/odd, searched by digit."""
  config = defaults.get_config()
  config.data.dataset = "digits"
  config.data.preprocess = "digits"
  config.data.label = "parity"
  config.data.eval_label = "label"
  config.data.batch_size = 128
  config.data.images_per_class = 64
  config.embedding.dim = 64
  config.optimizer.schedule = "cosine"
  config.train.duration = "150 steps"
  config.train.evaluate_every = "50 steps"
  config.train.checkpoint_every = "150 steps"
  config.eval.select_by = "last"
  return config


def few_sampled() -> ConfigDict:
  """HDML's own triplets of the 109 classes, until the plain form has stopped learning."""
  config = few_classes()
  last_of(config, 1200)
  config.eval.select_by = "map@r"
  config.data.sampler = "triplet"
  return config


def letters_sampled() -> ConfigDict:
  """HDML's own triplets of all training classes."""
  config = letters()
  last_of(config, 1000)
  config.data.sampler = "triplet"
  return config


def parity_sampled() -> ConfigDict:
  """Triplets of even and odd digits."""
  config = parity()
  last_of(config, 400)
  config.data.sampler = "triplet"
  return config


def imagenet_sampled() -> ConfigDict:
  """Triplets of the 109 classes, from ImageNet's weights."""
  config = imagenet_small()
  last_of(config, 300)
  config.data.sampler = "triplet"
  return config


def features_sampled() -> ConfigDict:
  """Triplets of the 109 classes on features of ImageNet's weights that stay: only a head learns."""
  config = imagenet()  # at 32 pixels these features are worse than the pixels
  last_of(config, 1200)
  config.eval.select_by = "map@r"
  config.encoder.cache_features = "runs/features"
  config.data.sampler = "triplet"
  return config


def pairs_of(base: Callable[[], ConfigDict]) -> Callable[[], ConfigDict]:
  """The same task in N-pair batches."""

  def make() -> ConfigDict:
    config = base()
    config.data.sampler = "npair"
    config.data.images_per_class = 2
    return config

  return make
