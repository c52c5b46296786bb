"""A run that starts from published weights: the encoder's state, and pixels as they want them."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxdml import models, pretrained
from jaxdml.data.normalize import NAMES, Normalize
from jaxdml.data.normalize import create as create_normalize
from jaxdml.training.config import ConfigError
from jaxdml.training.steps import TrainState

__all__ = ["describe", "normalize_text", "put", "resolve"]

IMAGENET = "imagenet"


def _error(error: Exception) -> ConfigError:
  return ConfigError(f"config.encoder.init: {error}")


def _load(config: ConfigDict) -> tuple[Any, Any, pretrained.Card]:
  """(params, batch_stats, card) of `encoder.init`."""
  name = config.encoder.name
  encoder = models.create(name, **config.encoder.options)
  try:
    if config.encoder.init == IMAGENET:
      return pretrained.load_imagenet(name, encoder)
    _card(config)
    return pretrained.load(config.encoder.init, encoder)
  except pretrained.WeightsError as error:
    raise _error(error) from error


def _card(config: ConfigDict) -> pretrained.Card:
  """The card of `encoder.init`, which names the encoder of the config."""
  name, path = config.encoder.name, config.encoder.init
  try:
    if path == IMAGENET:
      return pretrained.imagenet_card(name)
    card = pretrained.read_card(pathlib.Path(path).expanduser())
  except pretrained.WeightsError as error:
    raise _error(error) from error
  if card.arch != name:
    raise ConfigError(
      f"config.encoder.init: {path} holds weights of {card.arch}, and config.encoder.name is {name}"
    )
  return card


def normalize_text(card: pretrained.Card) -> str:
  """`data.normalize` for the pixels that the weights were trained on."""
  pixels = card.preprocessing
  mean, std = (tuple(round(255 * x, 6) for x in values) for values in (pixels.mean, pixels.std))
  ours = Normalize(mean=mean, std=std, bgr=pixels.channel_order == "bgr")
  probe = np.arange(0, 256, dtype=np.uint8)[:, None].repeat(3, axis=1) * np.uint8([1, 3, 7])
  for name in NAMES:
    if np.allclose(create_normalize(name, 3)(probe), ours(probe), rtol=1e-6, atol=1e-5):
      return name
  return ours.text()


def resolve(config: ConfigDict) -> ConfigDict:
  """The config with `data.normalize` filled in from the weights of `encoder.init`, if it is "".

  Raises:
    ConfigError: the weights are not there, are another encoder's, or take other channels.
  """
  if not config.encoder.init:
    return config
  card = _card(config)
  if config.data.channels != 3:
    raise ConfigError(
      f"config.data.channels: the weights of encoder.init take 3; got {config.data.channels}"
    )
  if config.data.normalize:
    return config
  config = config.copy_and_resolve_references()
  config.data.normalize = normalize_text(card)
  return config


def describe(config: ConfigDict) -> str:
  """One line on a resolved config's weights and pixels.

  Raises:
    ConfigError: as `resolve`.
  """
  card = _card(config)
  wanted, got = normalize_text(card), config.data.normalize
  pixels = f"pixels: {got}" if got == wanted else f"pixels: {got}, though they want {wanted}"
  return (
    f"{card.arch} starts from {card.source} ({config.encoder.init}, sha256 {card.sha256[:12]}); "
    f"{pixels}; trained at {card.preprocessing.image_size} px, here {config.data.image_size}"
  )


def put(config: ConfigDict, state: TrainState) -> TrainState:
  """The state before training with the encoder of `encoder.init`.

  What published weights lack (GeM's exponent) stays as it is.

  Raises:
    ConfigError: the weights cannot be read or do not fit the encoder.
  """
  params, batch_stats, _ = _load(config)
  merged = {**state.params["encoder"], **params}
  replaced = state._replace(params={**state.params, "encoder": merged})
  if batch_stats:
    replaced = replaced._replace(batch_stats={**state.batch_stats, "encoder": batch_stats})
  return replaced
