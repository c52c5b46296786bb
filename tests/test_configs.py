"""Every config, with every variant it offers: it loads, is accepted, and says how to run it."""

import importlib.util
import itertools
import pathlib
import re
import subprocess
import sys

import jax
import pytest

from configs import common
from jaxdml import hdml, training
from jaxdml.training import config as config_lib
from jaxdml.training import defaults, recipes
from jaxdml.training import program as program_lib

ROOT = pathlib.Path(__file__).resolve().parent.parent
PATHS = sorted(path for path in (ROOT / "configs").glob("*.py") if path.name != "common.py")
METHODS = ("npair", "triplet", "margin", "multisimilarity", "eps", "hdml")
DATA = ("cars", "cub", "sop", "inshop", "glyphs")
GRID = [f"{method}_{data}" for method, data in itertools.product(METHODS, DATA)]
# With dials of their own in recipes; tests/training/test_recipes.py has the others.
LOSSES = ("npair", "triplet", "margin", "multisimilarity", "contrastive")
ADDED = ("", "eps", "hdml", "eps,hdml", "random")


def load(name):
  spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def arguments(name):
  """What may stand behind the colon."""
  method, _, data = name.partition("_")
  if name in ("photos", "finetune_photos"):
    return ["", "garden", "garden,eps", "garden,triplet,hdml", "garden,multi_similarity,eps",
            *(f"garden,{loss}" for loss in recipes.LOSSES)]  # fmt: skip
  if name not in GRID:
    return [""]
  losses = ["", *LOSSES] if method in ("eps", "hdml") else [""]
  added = ("", "hdml") if method == "eps" else ADDED
  protocols = ("",) if data == "glyphs" else ("", "fair", "paper", "code")
  return [",".join(filter(None, names)) for names in itertools.product(losses, added, protocols)]


def test_no_config_is_missing():
  assert set(GRID) <= {path.stem for path in PATHS}


@pytest.mark.parametrize("name", [path.stem for path in PATHS])
def test_loads_and_is_accepted(name):
  known = config_lib.flatten(defaults.get_config().to_dict()).keys()
  get_config = load(name).get_config
  for arg in arguments(name):
    config = get_config(arg) if arg else get_config()
    # 8 devices, for the batch divides; resolved, for the variants of HDML fill in the rest.
    config.encoder.init = ""  # Its weights need not be here.
    training.resolve(config, 8)
    keys = config_lib.flatten(config.to_dict()).keys()
    unknown = {k for k in keys - known if not re.search(r"options\.\w+$", k)}
    assert not unknown, (arg, unknown)
    assert "hdml" not in f"{name},{arg}" or config.hdml.enabled, arg
    easy, asked = config.mining.positive == "nearest_positive", re.split("[_,]", f"{name},{arg}")
    assert easy or "eps" not in asked, arg
    if "garden" in asked:
      assert config.data.dataset == "image_folder/garden"
      assert easy == ("eps" in asked or arg == "garden")


@pytest.mark.parametrize("name", [path.stem for path in PATHS])
def test_header_says_how_to_run_it(name):
  header = load(name).__doc__
  words = " ".join(header.split())
  commands = re.findall(
    r"^python -m jaxdml\.main --config=configs/(\w+)\.py.* --workdir=", header, re.M
  )
  assert commands == [name]
  if name in GRID:
    for word in ("Published", "Variants, in configs/common.py"):
      assert word in words
    assert re.search(r"Ours: not run|Result \(", words)
    assert re.search(r"Cost: (about [\d.]+ minutes|not measured here)", words)


def test_the_argument_decides():
  config = load("hdml_cars").get_config()
  assert (config.loss.name, config.loss.layout, config.hdml.slots) == ("npair", "npair", 0)
  assert (config.encoder.name, config.hdml.alpha, config.hdml.beta) == ("googlenet", 90.0, 1e4)
  assert config.optimizer.weight_decay_in_loss
  config = load("hdml_cars").get_config("triplet,eps")
  assert (config.loss.name, config.mining.positive) == ("triplet", "nearest_positive")
  assert config.hdml.enabled
  assert config.optimizer.weight_decay_in_loss is False
  # alpha is in units of the loss; beta in units of J_gen, which is summed here as in their form.
  assert (config.hdml.alpha, config.hdml.beta) == (0.06, 1e4)
  assert config.hdml.sum_reconstruction is None
  config = load("triplet_sop").get_config("fair")
  assert (config.encoder.name, config.embedding.dim, config.eval.folds) == ("resnet50", 128, 4)
  assert config.encoder.frozen_bn
  assert not config.hdml.enabled
  assert config.eval.ks == (1, 10, 100, 1000)
  assert load("eps_cub").get_config("contrastive").loss.name == "contrastive"
  assert load("eps_cub").get_config().loss.name == "margin"
  assert load("npair_cub").get_config("eps").loss.options.l2_reg == 1.5e-2
  config = load("hdml_glyphs").get_config()
  assert (config.mining.positive, config.hdml.slots) == ("nearest_positive", 16)
  assert load("hdml_glyphs").get_config("triplet").mining.positive == "random_positive"


@pytest.mark.parametrize("form", ["", "triplet", "margin"])
def test_variants_decide_what_they_differ_in(form):
  """No value of the config stands in the way of the variant's."""
  for variant in common.VARIANTS:
    arg = ",".join(filter(None, [variant, form]))
    config = training.resolve(load("hdml_cub").get_config(arg))
    flat = config_lib.flatten(config.to_dict())
    for key, value in hdml.VARIANTS[variant].items():
      if key != "loss.options.l2_over" or config.loss.name == "npair":
        assert flat[key] == (value[config.loss.layout] if isinstance(value, dict) else value), key
    assert config.embedding.dim == (512 if variant == "paper" else 256)


@pytest.mark.parametrize(
  ("name", "arg", "message"),
  [
    (
      "hdml_cars",
      "tripplet",
      "expected names of npair, .*, published, fair, paper, code; got 'tri",
    ),
    ("hdml_cars", "fair,published", "one of published, fair; got"),
    ("triplet_cars", "margin", "expected one of npair, .*; got margin and triplet"),
    ("eps_sop", "random", "expected one of eps, random"),
    ("hdml_glyphs", "fair", "expected names of npair, .*, hdml, .*; got 'fair'"),
  ],
)
def test_wrong_arguments(name, arg, message):
  with pytest.raises(config_lib.ConfigError, match=message):
    load(name).get_config(arg)


def test_wrong_argument_on_the_command_line(tmp_path):
  result = subprocess.run(
    [sys.executable, "-m", "jaxdml.main", "--config=configs/hdml_cub.py:tripplet",
     f"--workdir={tmp_path}"],
    cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
  )  # fmt: skip
  assert result.returncode == 2
  assert "Traceback" not in result.stderr
  assert result.stderr.startswith("error: --config: the config's argument: expected names of npair")
  assert "got 'tripplet'" in result.stderr


@pytest.mark.parametrize(
  ("name", "arg"), [("triplet_glyphs", ""), ("hdml_glyphs", "margin,eps"), ("hdml_cars", "")]
)
def test_programs_of_configs(name, arg):
  """The step keeps the state's shapes, so it can be repeated; a small ConvNet stands in."""
  config = load(name).get_config(arg)
  config.update_from_flattened_dict(
    {"encoder.name": "convnet", "data.image_size": 16, "data.batch_size": 16, "encoder.init": ""}
  )
  program = program_lib.build(
    training.resolve(config), num_classes=8, total_steps=10, steps_per_epoch=5
  )
  state = jax.eval_shape(program.init, jax.random.key(0))
  size, channels = config.data.image_size, config.data.channels
  batch = {
    "image": jax.ShapeDtypeStruct((16, size, size, channels), "uint8"),
    "label": jax.ShapeDtypeStruct((16,), "int32"),
    "index": jax.ShapeDtypeStruct((16,), "int32"),
  }
  after, metrics = jax.eval_shape(program.step, state, batch)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
    lambda x: (x.shape, x.dtype), state
  )
  assert metrics["loss"].shape == ()
