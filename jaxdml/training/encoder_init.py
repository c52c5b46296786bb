"""A run that starts from published weights or another run's: the encoder, and pixels for it."""

import contextlib
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxdml import models, pretrained
from jaxdml.data import preprocess
from jaxdml.data.normalize import NAMES, Normalize
from jaxdml.data.normalize import create as create_normalize
from jaxdml.pretrained import hub, store
from jaxdml.training import networks, trained
from jaxdml.training.checkpoints import CheckpointError
from jaxdml.training.config import Config, ConfigError
from jaxdml.training.workdir import read_config
from jaxdml.types import PyTree


@contextlib.contextmanager
def _naming_the_key() -> Iterator[None]:
  try:
    yield
  except (CheckpointError, ConfigError, pretrained.WeightsError) as error:
    raise ConfigError(f"config.encoder.init: {error}") from error


def _run(config: ConfigDict) -> pathlib.Path | None:
  """The workdir that `encoder.init` names, if it is one."""
  path = pathlib.Path(config.encoder.init).expanduser()
  return path if (path / "config.json").is_file() and (path / "checkpoints").is_dir() else None


def _of_run(config: ConfigDict, run: pathlib.Path) -> tuple[Config, trained.Trained]:
  """Config and best model of the run in `encoder.init`, whose encoder is that of `config`."""
  with _naming_the_key():
    theirs = read_config(run)
  as_json = lambda value: json.loads(json.dumps(value))
  for section, key in (("encoder", "name"), ("encoder", "options"), ("data", "channels")):
    ours, its = (as_json(c.to_dict()[section][key]) for c in (config, theirs))
    if ours != its:
      raise ConfigError(
        f"config.{section}.{key}: expected {its!r}, as in the run of encoder.init={run}; got "
        f"{ours!r}"
      )
  with _naming_the_key():
    return theirs, trained.read(run)


def _weights(config: ConfigDict) -> tuple[Any, pretrained.Card]:
  """Weights and card of `encoder.init`, which are of the encoder of the config."""
  name, path = config.encoder.name, config.encoder.init
  with _naming_the_key():
    weights, card = hub.load(path, name)
  if card.arch != name:
    raise ConfigError(
      f"config.encoder.init: {path} holds weights of {card.arch}, and config.encoder.name is {name}"
    )
  return weights, card


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


def _source(config: ConfigDict) -> tuple[dict[str, Any], str]:
  """(the keys of config.data as the weights want them, where the weights come from)."""
  if run := _run(config):
    theirs, best = _of_run(config, run)
    pixels = theirs.data
    normalize = pixels.normalize or preprocess.NORMALIZE[pixels.preprocess]
    crop = pixels.crop_pct or preprocess.CROP_PCT, pixels.interpolation or preprocess.INTERPOLATION
    text = f"the run in {run}, step {best.step} (fingerprint {best.fingerprint})"
    return _wanted(config, normalize, pixels.image_size, *crop), text
  _, card = _weights(config)
  if config.data.channels != 3:
    raise ConfigError(
      f"config.data.channels: the weights of encoder.init take 3; got {config.data.channels}"
    )
  text = f"{card.source} ({config.encoder.init}, sha256 {card.sha256[:12]})"
  pixels = card.preprocessing
  crop = pixels.crop_pct, pixels.interpolation
  return _wanted(config, normalize_text(card), pixels.image_size, *crop), text


def _wanted(
  config: ConfigDict, normalize: str, image_size: int, crop_pct: float, interpolation: str
) -> dict[str, Any]:
  wanted = {"normalize": normalize, "image_size": image_size}
  crops = config.data.preprocess == "standard"  # The others have a geometry of their own.
  return wanted | ({"crop_pct": crop_pct, "interpolation": interpolation} if crops else {})


def fill_in(config: ConfigDict) -> None:
  """Sets what config.data leaves open (0 or "") as the weights of `encoder.init` want it.

  Raises ConfigError: the weights are not there, are another encoder's, or take other channels.
  """
  for key, value in _source(config)[0].items():
    config.data[key] = config.data[key] or value


def describe(config: Config) -> str:
  """One line on a resolved config's weights and pixels; errors as of `fill_in`."""
  wanted, source = _source(config)
  size, data = wanted.pop("image_size"), config.data
  pixels = [f"{data[k]}" + f", though they want {v}" * (data[k] != v) for k, v in wanted.items()]
  return (
    f"{config.encoder.name} starts from {source}; pixels: {'; '.join(pixels)}; trained at {size} "
    f"px, here {data.image_size}"
  )


def frozen(config: Config) -> tuple[networks.Embedder, dict[str, PyTree]]:
  """The networks of a config before training and their {"params", "batch_stats"}, without data."""
  embedder = networks.build(config)
  keys = dict(
    zip(("encoder", "embedding"), jax.random.split(jax.random.key(config.seed)), strict=True)
  )
  made = jax.tree.map(np.asarray, jax.jit(embedder.init)(keys))
  variables = {
    kind: {name: v[kind] for name, v in made.items() if kind in v}
    for kind in ("params", "batch_stats")
  }
  return embedder, put(config, variables) if config.encoder.init else variables


def put(config: Config, variables: Mapping[str, PyTree]) -> dict[str, PyTree]:
  """{"params", "batch_stats"} before training, each a dict by network, with the encoder's weights.

  What published weights lack (GeM's exponent) stays as it is.

  Raises ConfigError: the weights cannot be read or do not fit the encoder.
  """
  if run := _run(config):
    theirs = _of_run(config, run)[1].variables
    params, batch_stats = (theirs[k].get("encoder", {}) for k in ("params", "batch_stats"))
    shapes = lambda tree: jax.tree.map(np.shape, tree)
    if shapes(params) != shapes(variables["params"]["encoder"]):
      raise ConfigError(
        f"config.encoder.init: the encoder of the run in {run} has other shapes; is "
        "data.image_size the same?"
      )
  else:
    encoder = models.create(config.encoder.name, **config.encoder.options)
    weights, card = _weights(config)
    hub.forget()  # A large encoder's copy is not kept for the time of a run.
    with _naming_the_key():
      params, batch_stats = store.fit(weights, card, encoder)
  given = {"params": variables["params"]["encoder"] | params, "batch_stats": batch_stats}
  return {
    kind: {**tree, "encoder": given[kind]} if given[kind] else tree
    for kind, tree in variables.items()
  }
