"""What a config refuses, each with the key in the message."""

import pytest

from jaxdml import training
from jaxdml.training import config as config_lib
from tests.training.helpers import tiny_config

REFUSED = {
  "loss.name": ("tripplet", "config.loss.name: expected one of angular, arcface"),
  "loss.layout": ("npair", "config.loss.layout=npair reads batches in the order of"),
  "loss.distance": ("manhattan", "unknown distance 'manhattan'; valid names: cosine"),
  "loss.reducer": ("none", "config.loss.reducer: training needs one number"),
  "loss.learnable_beta": ("scalar", "config.loss.learnable_beta: only the margin loss"),
  "data.sampler": ("pxk", "config.data.sampler: expected one of hierarchical, npair"),
  "data.batch_size": (30, "config.data.batch_size: 30 is not divisible by the 8 devices"),
  "data.preprocess": ("cars", "config.data.preprocess: expected one of digits, glyphs, hdml"),
  "data.channels": (4, "config.data.channels: expected 1 (grey) or 3 (colour); got 4"),
  "data.normalize": ("vgg", "config.data.normalize: expected one of caffe, half, imagenet, unit"),
  "data.color_jitter": (0.2, "config.data.color_jitter: grey images have no colour, so 0; got 0.2"),
  "encoder.name": ("vgg", "config.encoder.name: expected one of bn_inception, clip_b16"),
  "embedding.norm": ("group", "config.embedding.norm: expected one of batch, layer, none"),
  "encoder.dtype": ("float16", "config.encoder.dtype: expected one of auto, float32, bfloat16"),
  "encoder.chunk_size": (3, "expected 0 (all at once) or a divisor of the 4 images of each device"),
  "optimizer.learning_rate": (-1.0, "config.optimizer.learning_rate: expected a positive number"),
  "mining.negative": (
    "distance_weighted_negative",
    "config.mining.negative: distance_weighted_negative knows how often distances of unit vectors",
  ),
  "mining.positive": ("nearest_positives", "miner 'nearest_positives' needs the options ['k']"),
  "optimizer.milestones": (("3 steps",), "config.optimizer.milestones: optimizer.schedule=step"),
  "eval.select_by": ("recall", "config.eval.select_by: expected one of last, recall@1, recall@2"),
  "eval.validation_fraction": (1.5, "config.eval.validation_fraction: expected a share"),
  "eval.folds": (1, "config.eval.folds: expected 0 (no cross-validation) or at least 2; got 1"),
  "eval.fold": (1, "config.eval.fold: expected 0..0, a part of eval.folds=0; got 1"),
  "data.cache": (__file__, "config.data.cache: expected a directory that can be written to, or ''"),
  "data.max_bad_images": (1.0, "config.data.max_bad_images: expected a share in [0, 1); got 1.0"),
}


@pytest.mark.parametrize("key", REFUSED)
def test_refuses(key):
  value, message = REFUSED[key]
  with pytest.raises(config_lib.ConfigError, match="config") as caught:
    training.resolve(tiny_config(**{key: value}), 8)
  assert message in str(caught.value)


def test_refuses_unknown_options_and_listing_the_valid_ones():
  config = tiny_config()
  config.loss.options = {"margine": 0.1}
  with pytest.raises(config_lib.ConfigError, match=r"no option \['margine'\]; valid options: l2"):
    training.resolve(config, 1)
  config = tiny_config(**{"loss.distance": "hyperbolic"})
  config.loss.distance_options = {"curve": 1.0}
  with pytest.raises(config_lib.ConfigError, match="valid options: curvature, clip_radius"):
    training.resolve(config, 1)
  config = tiny_config(**{"mining.positive": "easy"})
  with pytest.raises(config_lib.ConfigError, match="unknown miner 'easy'"):
    training.resolve(config, 1)
  config = tiny_config()
  config.loss.distance_options = {"curvature": 0.5}
  with pytest.raises(config_lib.ConfigError, match=r"name the distance, too, in config\.loss"):
    training.resolve(config, 1)
  config = tiny_config()
  config.encoder.options = {"width": 3}
  with pytest.raises(config_lib.ConfigError, match="widths"):
    training.resolve(config, 1)


def test_refuses_keys_that_do_not_fit_together():
  for keys, message in (
    ({"eval.folds": 4, "eval.fold": 4}, "config.eval.fold: expected 0..3"),
    (
      {"eval.clustering": False, "eval.select_by": "f1"},
      "config.eval.clustering: eval.select_by=f1 takes clustering; set this to True",
    ),
    ({"eval.folds": 4, "eval.validation_fraction": 0.1}, "eval.folds holds out classes already"),
    ({"eval.test": False}, "config.eval.test: False leaves the validation part to measure on"),
    ({"data.sampler": "hierarchical"}, "config.data.coarse_label: data.sampler=hierarchical needs"),
    (
      {
        "data.sampler": "hierarchical",
        "data.coarse_label": "kind",
        "data.coarse_per_batch": 0,
      },
      "config.data.coarse_per_batch: expected a positive number",
    ),
  ):
    with pytest.raises(config_lib.ConfigError) as caught:
      training.resolve(tiny_config(**keys), 8)
    assert message in str(caught.value)


WEIGHTED = {"mining.negative": "distance_weighted_negative"}


@pytest.mark.parametrize(
  ("keys", "fits"),
  [
    (WEIGHTED | {"loss.name": "margin"}, True),
    (WEIGHTED | {"loss.name": "triplet", "loss.distance": "euclidean"}, False),
    (
      WEIGHTED
      | {"loss.name": "triplet", "loss.distance": "euclidean", "embedding.unit_norm": True},
      True,
    ),
    (WEIGHTED | {"loss.name": "multi_similarity"}, False),
    ({"loss.name": "histogram"}, True),
    ({"loss.name": "histogram", "loss.distance": "normalized_euclidean"}, True),
    ({"loss.name": "histogram", "loss.distance": "euclidean"}, False),
    ({"loss.name": "histogram", "loss.distance": "normalized_squared_euclidean"}, False),
    ({"loss.name": "fast_ap"}, True),
    ({"loss.name": "fast_ap", "loss.distance": "squared_euclidean"}, False),
    ({"loss.name": "fast_ap", "loss.distance": "dot", "embedding.unit_norm": True}, True),
  ],
)
def test_what_takes_distances_of_unit_vectors_gets_them(keys, fits):
  if fits:
    training.resolve(tiny_config(**keys), 8)
    return
  with pytest.raises(config_lib.ConfigError, match=r"normalized_euclidean|max_distance"):
    training.resolve(tiny_config(**keys), 8)


def test_accepts_the_default():
  training.resolve(tiny_config(), 8)
  training.resolve(tiny_config(**{"eval.clustering": False}), 8)


@pytest.mark.parametrize(
  ("text", "steps"), [("300 steps", 300), ("1 step", 1), ("2 epochs", 14), ("0.5 epochs", 4)]
)
def test_duration(text, steps):
  assert config_lib.duration(text, 7, "train.duration") == steps


@pytest.mark.parametrize("text", ["300", "ten steps", "-3 steps", "3 hours", ""])
def test_duration_refuses(text):
  with pytest.raises(config_lib.ConfigError, match=r'config\.train\.duration: expected "N steps"'):
    config_lib.duration(text, 7, "train.duration")


@pytest.mark.parametrize("key", ["loss.options", "encoder.options"])
def test_refuses_options_that_training_sets(key):
  section, name = key.split(".")
  for option in {"loss": ("ids", "reduce_fn", "block_size"), "encoder": ("axis_name",)}[section]:
    config = tiny_config()
    config[section][name] = {option: 3}
    with pytest.raises(
      config_lib.ConfigError, match=rf"config\.{key}: {option} is set by training"
    ):
      training.resolve(config, 1)
