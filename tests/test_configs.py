"""Every page in configs/ and the grid: accepted, distinct, the same where they should be."""

import importlib
import json
import pathlib
import re
import subprocess
import sys

import jax
import pytest

from configs import grid, vit
from jaxdml import models, training
from jaxdml.training import config as config_lib
from jaxdml.training import defaults, recipes, variants
from jaxdml.training import program as program_lib

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = sorted(
  path.stem for path in (ROOT / "configs").glob("*.py") if path.stem not in ("grid", "vit")
)
# Pages of which the grid has the same, by these names.
OF_GRID = {
  "hdml_cars": "cars,hdml,npair,published",
  "hdml_cub": "cub,hdml,npair",
  "hdml_sop": "sop,hdml,npair",
  "hdml_inshop": "inshop,hdml,npair",
  "eps_cars": "cars,eps,margin",
  "hdml_glyphs": "glyphs,hdml,npair",
}
# One of each kind that is treated apart: losses with dials of their own and one without, each
# method, protocol and variant, on the photos that differ.
GRID = [
  *(f"{loss},glyphs" for loss in ("npair", "triplet", "margin", "multisimilarity", "contrastive")),
  *("proxy_anchor,glyphs", "npair,eps,glyphs", "triplet,hdml,glyphs", "margin,eps,hdml,glyphs"),
  *("npair,random,glyphs", "multisimilarity,hdml,glyphs", "contrastive,hdml,glyphs"),
  *(
    f"{loss},cub{protocol}" for loss in ("npair", "triplet", "margin") for protocol in ("", ",fair")
  ),
  *("npair,hdml,cars,paper", "npair,hdml,cars,code", "triplet,hdml,cub,paper", "triplet,hdml,cub"),
  *("triplet,eps,hdml,cars", "triplet,hdml,cars,fair", "margin,hdml,sop,code", "margin,eps,inshop"),
  *("multisimilarity,sop", "npair,hdml,inshop,fair,paper", "npair,hdml,cub,fair,code"),
]
VIT = [
  *("cub,dinov2_s14,lora,multisimilarity,eps", "cub,vit_b16,head,strong", "sop,triplet,hdml"),
  *("cars,resnet50,proxy_anchor,head", "inshop,hdml,lora"),
]
PHOTOS = ["", "garden", "garden,triplet,eps", "garden,triplet,hdml", "garden,proxy_anchor"]
EASY = ["photos:", "photos:garden", "finetune_photos:", "finetune_photos:garden"]
KNOWN = config_lib.flatten(defaults.get_config()).keys()


def load(page):
  return importlib.import_module(f"configs.{page}")


def resolved(config):
  """Resolved for 8 devices, which the batch divides among; the weights need not be here."""
  config.encoder.init = ""
  return training.resolve(config, 8)


def values(config):
  return json.loads(json.dumps(config_lib.flatten(resolved(config))))


def cases():
  for page in PAGES:
    for arg in PHOTOS if page in ("photos", "finetune_photos") else [""]:
      yield f"{page}:{arg}", lambda page=page, arg=arg: load(page).get_config(*filter(None, [arg]))
  for arg in GRID:
    yield f"grid:{arg}", lambda arg=arg: grid.get_config(arg)
  for arg in VIT:
    yield f"vit:{arg}", lambda arg=arg: vit.get_config(arg)


CASES = dict(cases())


@pytest.mark.parametrize("case", CASES)
def test_is_accepted_and_does_what_its_name_says(case):
  config = CASES[case]()
  unknown = {k for k in config_lib.flatten(config).keys() - KNOWN if not re.search(r"options\.", k)}
  assert not unknown
  resolved(config)
  names = re.split("[:_,]", case)
  assert config.hdml.enabled == ("hdml" in names)
  easy = config.mining.positive == "nearest_positive"
  assert easy == ("eps" in names or case in EASY)
  if "garden" in names:
    assert config.data.dataset == "image_folder/garden"
  if "fair" in names:
    assert (config.encoder.name, config.embedding.dim, config.eval.folds) == ("resnet50", 128, 4)
    assert config.encoder.frozen_bn


def test_no_two_are_the_same():
  seen = {}
  for case, make in CASES.items():
    if case in ("photos:", "finetune_photos:"):  # Those of "photos:garden", of another folder.
      continue
    seen.setdefault(json.dumps(values(make()), sort_keys=True), []).append(case)
  assert [same for same in seen.values() if len(same) > 1] == []


@pytest.mark.parametrize("page", OF_GRID)
def test_a_page_and_the_grid_say_the_same(page):
  get_config = load(page).get_config
  assert values(get_config()) == values(grid.get_config(OF_GRID[page]))
  with_argument = OF_GRID[page].replace(",npair", "").replace(",margin", "") + ",triplet"
  assert values(get_config("triplet,eps" if "eps" in page else "triplet")) == (
    values(grid.get_config(with_argument))
  )


@pytest.mark.parametrize("page", PAGES)
def test_a_header_says_how_to_run_it_and_what_came_of_it(page):
  header = load(page).__doc__
  words = " ".join(header.split())
  commands = re.findall(
    r"^python -m jaxdml\.main --config=configs/(\w+)\.py.* --workdir=", header, re.M
  )
  assert commands == [page]
  assert "Published" in words and "Measured" in words
  assert re.search(r"Cost: (about |under |2 minutes|not measured here)", words)
  source = pathlib.Path((vit if page.startswith("vit_") else load(page)).__file__).read_text()
  for key in ("data.batch_size", "embedding.dim", "loss.name", "optimizer.learning_rate",
              "train.duration"):  # fmt: skip
    assert f"config.{key} = " in source, key


@pytest.mark.parametrize("module", [grid, vit])
def test_the_command_of_the_grids_is_one_of_their_configs(module):
  name = module.__name__.replace(".", "/")
  command = rf"^python -m jaxdml.main --config={name}.py:(\S+) "
  (arg,) = re.findall(command, module.__doc__, re.M)
  resolved(module.get_config(arg))


def test_the_recipes_of_vits():
  for data in vit.DATA:
    page = load(f"vit_{data}")
    assert values(page.get_config("lora,eps")) == values(vit.get_config(f"eps,{data},lora"))
    (shown,) = re.findall(rf"configs/vit_{data}\.py:(\S+),? or", page.__doc__)
    assert page.get_config(shown.rstrip(",")).encoder.lora.rank == 8
    assert "not run here" in page.__doc__ and "arXiv 2203.10833" in page.__doc__
  config = vit.get_config("cub")
  opt = config.optimizer
  assert (config.encoder.name, config.encoder.init) == ("dinov2_s14", "hf:")
  assert 1e-5 <= opt.learning_rate * opt.encoder_factor <= 3e-5 and config.data.rand_augment == 0
  assert (config.encoder.lora.rank, config.encoder.frozen_stages) == (0, 0)
  config = vit.get_config("cub,lora,hdml,strong")
  assert (config.encoder.lora.rank, config.optimizer.encoder_factor) == (8, 1.0)
  assert (config.hdml.alpha, config.hdml.beta) == ("auto", "auto")
  assert (config.data.rand_augment, config.data.erase) == (2, 0.25)
  config = vit.get_config("inshop,efficientnet_lite0,head,triplet")
  assert (config.encoder.init, config.loss.name) == ("imagenet", "triplet")
  stages = models.create("efficientnet_lite0").stages
  assert config.encoder.frozen_stages == len(stages)
  for name in ("vit_b16", "dinov2_s14", "resnet50"):
    side = vit.get_config(f"sop,{name}").data.image_size
    assert 200 < side <= 224 and side % models.create(name).sides[1] == 0


def test_photos_name_their_encoder():
  """The choice stands in the config, and no network is asked for it."""
  get_config = load("finetune_photos").get_config
  start = lambda config: (config.encoder.name, config.encoder.init, config.data.image_size)
  assert start(get_config("garden")) == ("efficientnet_lite0", "imagenet", 128)
  config = get_config("garden,dinov2_s14,eps")
  assert start(config) == ("dinov2_s14", "hf:", 126) and config.optimizer.encoder_factor == 0.02
  config = get_config("garden,dinov2_s14,lora")
  assert (config.encoder.lora.rank, config.optimizer.encoder_factor) == (8, 1.0)
  assert get_config("garden,triplet").optimizer.encoder_factor == 0.1


@pytest.mark.parametrize(
  ("arg", "message"),
  [
    ("", r"configs/vit.py: expected one data set of cub, cars, sop, inshop; got none in ''"),
    ("cub,sop", "expected one data set of .*; got cub and sop"),
    (
      "cub,dinov2_s41",
      r"names: expected an encoder .*lora.*eps.*; got 'dinov2_s41'; did you mean 'dinov2_",
    ),
    ("cub,lora,head", "expected one of lora, head; got head and lora"),
    ("cub,vit_s16,vit_b16", "expected one of .*; got vit_b16 and vit_s16"),
    ("cub,convnet", "names: convnet has no published weights to start from"),
    ("cub,triplet,margin", "expected one of .*; got margin and triplet"),
  ],
)
def test_wrong_names_for_vits(arg, message):
  with pytest.raises(training.ConfigError, match=message):
    vit.get_config(arg)


def test_the_argument_decides():
  config = grid.get_config("cars,hdml")
  assert (config.loss.name, config.loss.layout, config.hdml.slots) == ("npair", "npair", 0)
  assert (config.encoder.name, config.hdml.alpha, config.hdml.beta) == ("googlenet", 90.0, 1e4)
  assert config.optimizer.weight_decay_in_loss
  config = load("hdml_cars").get_config("triplet,eps")
  assert (config.loss.name, config.mining.positive) == ("triplet", "nearest_positive")
  assert config.optimizer.weight_decay_in_loss is False
  # alpha is in units of the loss; beta in units of J_gen, which is summed here as in their form.
  assert (config.hdml.alpha, config.hdml.beta) == (0.06, 1e4)
  assert config.hdml.sum_reconstruction is None
  assert grid.get_config("triplet,sop,fair").eval.ks == (1, 10, 100, 1000)
  assert load("eps_cars").get_config("fair").loss.name == "margin"
  assert grid.get_config("npair,cub,eps").loss.options.l2_reg == 1.5e-2
  config = load("hdml_glyphs").get_config()
  assert (config.mining.positive, config.hdml.slots) == ("all_positives", 16)
  assert load("hdml_glyphs").get_config("triplet").mining.positive == "random_positive"


@pytest.mark.parametrize("form", ["npair", "triplet", "margin"])
def test_variants_decide_what_they_differ_in(form):
  """No value of the config stands in the way of the variant's."""
  for variant in grid.VARIANTS:
    config = resolved(grid.get_config(f"cub,hdml,{variant},{form}"))
    flat = config_lib.flatten(config)
    for key, value in variants.VARIANTS[variant].items():
      if key != "loss.options.l2_over" or config.loss.name == "npair":
        assert flat[key] == (value[config.loss.layout] if isinstance(value, dict) else value), key
    assert config.embedding.dim == (512 if variant == "paper" else 256)


@pytest.mark.parametrize(
  ("arg", "message"),
  [
    ("", r"one data set of cars, cub, sop, inshop, glyphs; got none in ''\. .* as in con"),
    ("triplet", "one data set of cars, cub, sop, inshop, glyphs; got none in 'triplet'"),
    ("cars,tripplet", "of cars, .*npair, .*, published, fair, paper, code; got 'tripplet'; did you "
                      "mean 'triplet'"),
    ("cars,cub", "one data set of .*; got cars and cub"),
    ("cars,fair,published", "one protocol of published, fair; got fair and published"),
    ("cars,triplet,margin", "expected one of npair, .*; got margin and triplet"),
    ("sop,eps,random", "expected one of eps, random"),
    ("glyphs,fair", "of cars, .*, hdml, .*; got 'fair'"),
  ],
)  # fmt: skip
def test_wrong_arguments(arg, message):
  with pytest.raises(training.ConfigError, match=message):
    grid.get_config(arg)


def test_a_wrong_argument_on_the_command_line_is_one_line(tmp_path):
  result = subprocess.run(
    [sys.executable, "-m", "jaxdml.main", "--config=configs/grid.py:cub,tripplet",
     f"--workdir={tmp_path}"],
    cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
  )  # fmt: skip
  assert result.returncode == 2
  assert "Traceback" not in result.stderr
  assert result.stderr.startswith("error: --config: configs/grid.py takes names joined by commas")
  assert "got 'tripplet'; did you mean 'triplet'?" in result.stderr


def test_every_name_of_the_recipes_is_in_the_grid():
  for name in recipes.RECIPES:
    assert grid.get_config(f"glyphs,{name}").data.dataset == "glyphs"


@pytest.mark.parametrize("arg", ["triplet,glyphs", "glyphs,hdml,margin,eps", "cars,hdml"])
def test_programs_of_configs(arg):
  """The step keeps the state's shapes, so it can be repeated; a small ConvNet stands in."""
  config = grid.get_config(arg)
  config.update_from_flattened_dict(
    {"encoder.name": "convnet", "data.image_size": 16, "data.batch_size": 16}
  )
  program = program_lib.build(resolved(config), num_classes=8, total_steps=10, steps_per_epoch=5)
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
