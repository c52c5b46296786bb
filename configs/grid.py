"""The grid of losses and methods x data sets x protocols, for comparisons. One config by argument:

python -m jaxdml.main --config=configs/grid.py:triplet,cub,fair --workdir=runs/triplet_cub_fair

The argument is names in any order, joined by commas: exactly one data set, and at most one of each
other kind.

  data set   cars, cub, sop, inshop (photos); glyphs (bundled: 1.5 to 2.5 minutes on 2 CPU cores)
  loss       npair (if none is named), triplet, margin, multisimilarity, contrastive, or any other
             of docs/losses.md
  positive   eps, easy positives (arXiv 2006.05162); random, their control; all
  hdml       hardness-aware synthesis around the loss (arXiv 1903.05503)
  protocol   for photos: published or fair
  variant    for photos: paper or code, HDML's choices where the two differ (hdml.variant)

published, the default: HDML's authors'. GoogLeNet, images warped to 256 pixels and cropped to 227,
batches of 128, 8,000 steps of Adam; selected on the TEST classes, as they did it. N-pair and
triplet without EPS are in their form, with the hyperparameters of their code: configs/hdml_cars.py
is this file's cars,hdml. In any other form batches are 32 classes x 4, and weight decay stays out
of the loss.

fair: every loss alike, and selected on classes that neither train nor test (arXiv 2003.08505).
ResNet-50 with frozen BatchNorm, 128 dimensions, random resized crops of 227 pixels, a quarter of
the training classes for validation: give --config.eval.fold=0, 1, 2, 3 a workdir each and average
the test results. 28 classes x 4, Adam's rates and 70 epochs are those of
github.com/Confusezius/Deep-Metric-Learning-Baselines.

Both start from ImageNet's weights, which are not ours to ship: convert GoogLeNet's or ResNet-50's
as docs/encoders.md says and add --config.encoder.init=DIR. From random weights expect far less;
fair then needs --config.encoder.frozen_bn=False.

Published without HDML, by github.com/Confusezius/Deep-Metric-Learning-Baselines, whose schedule is
that of fair, but selected on the test classes; ResNet-50 with d=128, GoogLeNet with d=512:

             margin               triplet              npair
  cars       79.3/87.1/92.1/95.4  75.2/84.1/90.0/94.0  69.5/80.2/87.3/92.1  R@1/2/4/8, ResNet-50
             73.7/82.7/89.3/93.9  68.4/78.3/85.7/90.8  65.9/76.7/84.5/90.3  GoogLeNet
  cub        63.4/74.9/86.0/90.4  61.4/73.3/82.7/89.6  59.0/71.3/81.1/88.8  R@1/2/4/8, ResNet-50
             57.9/69.7/79.9/87.7  56.8/68.9/78.7/86.7  50.6/63.3/74.5/83.7  GoogLeNet
  sop        76.1/88.7/95.1/98.3  74.0/87.4/94.8/98.4  70.9/85.2/93.8/98.2  R@1/10/100/1000, ResNet
             68.2/82.4/91.6/97.1  66.1/81.8/91.7/97.5  63.4/80.1/91.3/97.4  GoogLeNet
  inshop     84.5/96.1/97.4/97.9  83.8/96.4/97.6/98.2  80.9/95.0/96.6/97.5  R@1/10/20/30, ResNet-50
             78.9/91.8/94.2/95.3  71.5/90.2/93.2/94.5  75.7/92.6/95.1/96.2  GoogLeNet

Multi-similarity and EPS: none that we know for these protocols. Measured: photos are not run here
and their cost is not measured; glyphs are in docs/results.md (N-pair, 3 seeds: R@1 .689, MAP@R
.478, NMI .897; raw pixels .419, .175, .749).
"""

from __future__ import annotations

import difflib

from ml_collections import ConfigDict

from jaxdml.training import ConfigError, defaults, recipes

PROTOCOLS = ("published", "fair")
VARIANTS = ("paper", "code")
_CUB = {
  "data.dataset": "cub200_2011",
  "embedding.dim": 256,
  "hdml.beta": 5e3,
  "optimizer.learning_rate": 6e-5,
  "optimizer.weight_decay": 1e-3,
}
_SOP = _CUB | {
  "data.dataset": "stanford_online_products",
  "data.label": "class_id",
  "embedding.dim": 512,
  "eval.ks": (1, 10, 100, 1000),
}
PHOTOS = {
  "cars": {
    "data.dataset": "cars196",
    "embedding.dim": 128,
    "hdml.beta": 1e4,
    "optimizer.learning_rate": 7e-5,
    "optimizer.weight_decay": 5e-3,
  },
  "cub": _CUB,
  "sop": _SOP,
  "inshop": _SOP | {"data.dataset": "inshop", "data.label": "label", "eval.ks": (1, 10, 20, 30)},
}
"""Each data set of photos with what HDML's authors set for it; SOP and In-Shop mostly as CUB."""
_NPAIR_L2 = {"cars": 3e-3, "cub": 1.5e-2, "sop": 1.5e-2, "inshop": 1.5e-2}


def get_config(arg: str = "", loss: str = "npair") -> ConfigDict:
  """The config of the names in `arg`, around `loss` where they name none.

  Raises:
    ConfigError: no data set, a name that is none of these, or two of a kind; it says what there is.
  """
  names = [name.strip() for name in arg.split(",") if name.strip()]
  data = _chosen(names, "data set", (*PHOTOS, "glyphs"), required=True)
  recipe = [name for name in names if name in recipes.RECIPES]
  if not set(recipe) & set(recipes.LOSSES):
    recipe.append(loss)
  protocol = _chosen(names, "protocol", PROTOCOLS if data in PHOTOS else ())
  variant = _chosen(names, "variant", VARIANTS if data in PHOTOS else ())
  used = {data, protocol, variant, *recipe}
  if unknown := [name for name in names if name not in used]:
    raise ConfigError(_usage(unknown[0], photos=data in PHOTOS))
  if data == "glyphs":
    return recipes.apply(_glyphs(), ",".join(recipe))
  return _photos(data, ",".join(recipe), protocol or "published", variant)


def _chosen(names: list[str], kind: str, valid: tuple[str, ...], required: bool = False) -> str:
  """The one of `names` that is `valid`, or "" where it may be left out."""
  found = sorted(set(names) & set(valid))
  if len(found) > 1 or (required and not found):
    got = " and ".join(found) or f"none in {','.join(names)!r}"
    message = f"configs/grid.py: expected one {kind} of {', '.join(valid)}; got {got}"
    raise ConfigError(message if found else f"{message}. {_usage()}")
  return found[0] if found else ""


def _usage(wrong: str = "", photos: bool = True) -> str:
  """A line on what the argument takes, and on the name in it that is none of it."""
  kinds = [recipes.RECIPES, *([PROTOCOLS, VARIANTS] if photos else [])]
  known = [*PHOTOS, "glyphs", *(name for kind in kinds for name in kind)]
  text = (
    f"configs/grid.py takes names joined by commas, as in configs/grid.py:triplet,cub,fair, of "
    f"{', '.join(known)}"
  )
  if not wrong:
    return text
  near = difflib.get_close_matches(wrong, known, n=1)
  return f"{text}; got {wrong!r}" + (f"; did you mean {near[0]!r}?" if near else "")


def _glyphs() -> ConfigDict:
  """The bundled glyphs, 32 classes x 4 renderings; a tenth of the training classes validates."""
  config = defaults.get_config()
  config.data.batch_size = 128
  config.data.images_per_class = 4
  config.embedding.dim = 128
  config.embedding.kernel_scale = 0.3
  config.optimizer.learning_rate = 1e-3
  config.optimizer.generator_learning_rate = 1e-3
  config.optimizer.schedule = "cosine"
  config.train.duration = "1500 steps"
  config.train.evaluate_every = "300 steps"
  config.train.checkpoint_every = "300 steps"
  config.train.log_every = "50 steps"
  config.eval.validation_fraction = 0.1
  return config


def _photos(data: str, recipe: str, protocol: str, variant: str) -> ConfigDict:
  """A data set of photos by a protocol."""
  config = defaults.get_config()
  config.data.image_size = 227
  config.data.channels = 3
  config.data.num_workers = 8
  config.encoder.dtype = "auto"  # bfloat16, on a CPU float32
  config.optimizer.generator_learning_rate = 1e-2
  config.optimizer.head_learning_rate = 1e-3
  config.optimizer.schedule = "step"
  config.hdml.alpha = 90.0
  config.eval.raw_pixels = False
  config.update_from_flattened_dict(PHOTOS[data])
  (_fair if protocol == "fair" else _published)(config)
  recipes.apply(config, recipe)
  if config.loss.name == "npair":
    config.loss.options.l2_reg = _NPAIR_L2[data]
  if config.loss.layout == "all_pairs":
    config.optimizer.weight_decay_in_loss = False
  # The recipes' are for features that were learned from random weights.
  config.hdml.beta = PHOTOS[data]["hdml.beta"]
  config.hdml.update(reconstruction_weight=None, soft_weight=None, sum_reconstruction=None)
  if variant:
    config.hdml.variant = variant
    config.hdml.weighted_average = config.optimizer.weight_decay_in_loss = None
  if variant == "paper" and protocol != "fair":
    config.embedding.dim = 512
  if variant == "paper" and config.loss.name == "npair":
    # 90 is for a loss with the weight decay in it.
    config.hdml.alpha = 1.0
  return config


def _published(config: ConfigDict) -> None:
  config.data.preprocess = "hdml"
  config.data.batch_size = 128
  config.data.sampler = "npair"
  config.data.images_per_class = 2
  config.encoder.name = "googlenet"
  config.optimizer.weight_decay_in_loss = True
  config.optimizer.milestones = ("5632 steps", "6848 steps")
  config.train.duration = "8000 steps"
  config.train.evaluate_every = "500 steps"
  config.train.checkpoint_every = "500 steps"
  config.eval.select_by = "recall@1"


def _fair(config: ConfigDict) -> None:
  config.data.preprocess = "standard"
  config.data.batch_size = 112
  config.data.sampler = "pk"
  config.data.images_per_class = 4
  config.encoder.name = "resnet50"
  config.encoder.frozen_bn = True
  config.embedding.dim = 128
  config.embedding.norm = "none"
  config.optimizer.learning_rate = 1e-5
  config.optimizer.loss_learning_rate = 5e-4
  config.optimizer.weight_decay = 4e-4
  config.optimizer.milestones = ("30 epochs", "55 epochs")
  config.optimizer.decay_factor = 0.3
  config.train.duration = "70 epochs"
  config.train.evaluate_every = "5 epochs"
  config.train.checkpoint_every = "5 epochs"
  config.eval.select_by = "map@r"
  config.eval.folds = 4
