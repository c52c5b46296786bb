"""hdml.variant fills in what a config leaves open, and nothing else."""

import inspect
import json
import pathlib

import pytest

from jaxdml import hdml, losses, training
from jaxdml.training import config as config_lib
from jaxdml.training import defaults, variants, workdir
from tests.training.helpers import build_program, tiny_config


def values(config):
  """The keys of the table, where the config has them."""
  flat = json.loads(json.dumps(config.to_dict()))
  found = {}
  for key in variants.VARIANTS["default"]:
    node = flat
    for part in key.split("."):
      node = node.get(part) if isinstance(node, dict) else None
    found[key] = node
  return found


def expected(variant, layout):
  of = lambda value: value[layout] if isinstance(value, dict) else value
  return {key: of(value) for key, value in variants.VARIANTS[variant].items()}


@pytest.mark.parametrize("layout", ["npair", "triplet", "all_pairs"])
@pytest.mark.parametrize("variant", variants.VARIANTS)
def test_a_variant_sets_every_key_of_the_table(variant, layout):
  config = defaults.get_config()
  assert not any(values(config).values()), "open until it is resolved"
  config.hdml.variant, config.loss.layout = variant, layout
  config.data.sampler = "pk" if layout == "all_pairs" else layout
  resolved = training.resolve(config.lock())
  assert values(resolved) == expected(variant, layout)
  assert values(config) != values(resolved), "a copy"
  again = training.resolve(resolved)
  assert again.to_json() == resolved.to_json()


def test_what_a_config_sets_itself_wins():
  config = defaults.get_config()
  config.hdml.variant = "paper"
  config.hdml.window = "7 steps"
  config.hdml.sum_soft = False
  config.optimizer.weight_decay_in_loss = True
  config.loss.options.l2_over = "references"
  want = expected("paper", "all_pairs") | {
    "hdml.window": "7 steps",
    "hdml.sum_soft": False,
    "optimizer.weight_decay_in_loss": True,
    "loss.options.l2_over": "references",
  }
  assert values(training.resolve(config)) == want


def test_another_loss_gets_no_option_of_npair():
  config = defaults.get_config()
  config.loss.name = "margin"
  assert dict(training.resolve(config).loss.options) == {}


def test_unknown_variant_lists_the_valid_ones():
  message = "config.hdml.variant: expected one of default, paper, code; got 'tf1'"
  for refuse in (training.resolve, lambda config: training.resolve(config, 8)):
    with pytest.raises(config_lib.ConfigError, match=message):
      refuse(tiny_config(**{"hdml.variant": "tf1"}))


@pytest.mark.parametrize(
  ("key", "value", "message"),
  [
    ("window", "0 steps", "config.hdml.window: expected at least 1 step; got '0 steps'"),
    ("warmup", "3", 'config.hdml.warmup: expected "N steps" or "N epochs"; got \'3\''),
    ("window", "64", 'config.hdml.window: expected "N steps" or "N epochs"; got \'64\''),
    ("detach", "all", "config.hdml.detach: expected one of none, distances, anchors, generated"),
    ("synthetic_members", "some", "config.hdml.synthetic_members: expected one of all, negatives"),
    ("synthetic_bn", "both", "config.hdml.synthetic_bn: expected one of own, real; got 'both'"),
    ("running_bn", "own", "config.hdml.running_bn: expected one of real, both; got 'own'"),
  ],
)
def test_refuses(key, value, message):
  with pytest.raises(config_lib.ConfigError) as caught:
    training.resolve(tiny_config(**{f"hdml.{key}": value}), 8)
  assert message in str(caught.value)


def test_real_statistics_need_a_batch_norm():
  config = tiny_config(**{"hdml.synthetic_bn": "real", "embedding.norm": "layer"})
  with pytest.raises(config_lib.ConfigError, match="real needs the BatchNorm of embedding"):
    training.resolve(config, 8)


def test_the_dials_default_to_the_default_variant():
  """For N-pair, so that `HdmlConfig()` and an untouched config agree."""
  default = {k.removeprefix("hdml."): v for k, v in expected("default", "npair").items()}
  for name, value in hdml.HdmlConfig()._asdict().items():
    if name in default and name != "window":
      assert value == default[name], name
  assert default["window"] == f"{hdml.HdmlConfig().window} steps"
  npair = inspect.signature(losses.npair_loss).parameters
  assert npair["l2_over"].default == expected("default", "npair")["loss.options.l2_over"]


@pytest.mark.parametrize(("variant", "window"), [("paper", 9), ("code", 64)])
def test_windows_are_resolved_to_steps(variant, window):
  config = defaults.get_config()
  config.hdml.enabled, config.hdml.variant = True, variant
  program = build_program(config, num_classes=3, total_steps=5, steps_per_epoch=9)
  assert program.parts.hdml.window == window


def test_the_workdir_records_what_was_used(tmp_path):
  resolved = training.resolve(tiny_config(**{"hdml.variant": "code"}))
  workdir.check(resolved, tmp_path, 10)
  kept = json.loads((pathlib.Path(tmp_path) / "config.json").read_text())
  assert kept["hdml"]["running_bn"] == "both" and kept["hdml"]["window"] == "2 steps"


def test_what_a_config_sets_beside_its_variant_is_told():
  config = tiny_config(**{"hdml.variant": "paper", "hdml.window": None})
  assert config_lib.kept(training.resolve(config)) == {
    "hdml.reconstruction_weight": (0.5, 1.0),
    "hdml.sum_reconstruction": (False, True),
  }
  untouched = defaults.get_config()
  untouched.hdml.variant = "code"
  assert not config_lib.kept(training.resolve(untouched))
