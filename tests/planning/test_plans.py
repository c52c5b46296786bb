"""Plans of a config; a CPU's compiler stands in for a chip's, but where one is installed."""

import functools
import importlib.util
import json
import os

import jax
import pytest

from jaxdml import commands, planning
from jaxdml.commands import plan as command
from jaxdml.planning import plans, targets
from jaxdml.training import ConfigError
from tests.training.helpers import tiny_config

# A machine as small as the programs.
CHIP = targets.CHIPS["v5e"]._replace(platform="cpu", memory=64e6)


def here(memory=CHIP.memory, devices=4, compile_=None):
  """Devices of this machine as a target."""

  class Here(targets.Target):
    def compile(self, lowered):
      return (compile_ or jax.stages.Lowered.compile)(lowered)

  return Here("here", CHIP._replace(memory=memory), jax.devices()[:devices], {})


@functools.cache
def tiny(**keys):
  return plans.plan(tiny_config(**dict(keys.pop("config", {}))), here(**keys))


def test_figures_hang_together():
  plan = tiny()
  step = plan.step
  assert plan.chips == 4 and step.images * 4 == tiny_config().data.batch_size
  assert step.fits and step.peak_bytes >= step.argument_bytes + step.temp_bytes
  # Adam keeps two numbers a parameter, and both are read and written.
  assert 8 * plan.parameters <= plan.optimizer_bytes < 8.2 * plan.parameters
  assert step.traffic_bytes > 2 * (plan.parameter_bytes + plan.optimizer_bytes)
  assert step.images_per_second == step.images / max(step.seconds.values())
  assert 0 < step.share_of_peak <= 1
  # The gradients of all parameters are summed over the devices.
  assert step.collectives["all-reduce"]["bytes"] >= 4 * plan.parameters
  assert plan.embed.flops / plan.embed.images < step.flops / step.images
  assert json.loads(json.dumps(plan.as_json(), allow_nan=False))["step"]["bound"] == step.bound


def test_text():
  text = command.text_of(tiny())
  for part in ("here: 4 x TPU v5e", "fits", "all-reduce", "bound by", "FLOP an image"):
    assert part in text


def test_too_large_for_the_chip():
  plan = tiny(memory=1e5)
  assert not plan.step.fits and "more than" in plan.too_large
  assert "DOES NOT FIT" in command.text_of(plan)


def test_the_compiler_says_that_it_does_not_fit():
  def refuse(lowered):
    raise targets.OutOfMemory("RESOURCE_EXHAUSTED: Ran out of memory: used 20G of 16G")

  plan = plans.plan(tiny_config(), here(compile_=refuse))
  assert plan.step is None and plan.embed is None
  assert "does not fit: RESOURCE_EXHAUSTED" in command.text_of(plan)


@pytest.mark.parametrize("first", [8, 64, 4096])
def test_the_largest_batch_is_one_that_fits_beside_one_that_does_not(first, monkeypatch):
  """Memory of 1,000 bytes an image, found by compiling 8 programs at most."""
  made = plans._Made(plans_config(), here(memory=1e6 / CHIP.usable), 10_000, lambda text: None)
  compiled = []

  def tried(images):
    compiled.append(images)
    step = tiny().step
    fits = 1000 * images + 100_000 <= 1e6
    values = {"images": images, "temp_bytes": 1000 * images, "peak_bytes": 1000 * images + 1e5}
    return plans.dataclasses.replace(step, fits=fits, **values), ""

  monkeypatch.setattr(made, "tried", tried)
  largest, because = made.largest(first, tried(first)[0])
  assert 0.9 * 900 <= largest <= 900 and len(set(compiled)) <= 9
  assert "do not fit" in because


def plans_config():
  return plans.setup.resolve(tiny_config())


def test_no_more_images_than_the_classes_have(monkeypatch):
  config = plans_config()
  made = plans._Made(config, here(), 64, lambda text: None)
  monkeypatch.setattr(made, "tried", lambda images: (tiny().step, ""))
  monkeypatch.setattr(made, "_predicted", lambda good: 1e9)
  largest, because = made.largest(8, tiny().step)
  assert largest == 64 * config.data.images_per_class // 4 and "64 classes" in because


def test_a_sampler_without_such_a_limit(monkeypatch):
  config = plans.setup.resolve(tiny_config(**{"data.sampler": "uniform"}))
  made = plans._Made(config, here(), 2, lambda text: None)
  fits = lambda images: (plans.dataclasses.replace(tiny().step, fits=images <= 40), "")
  monkeypatch.setattr(made, "tried", fits)
  largest, because = made.largest(8, fits(8)[0])
  assert largest == 40 and because == "48 do not fit"


def test_classes_of_a_data_set_that_is_not_here(tmp_path):
  keys = {"data.data_dir": str(tmp_path)}
  assert plans._num_classes(tiny_config(**keys, **{"data.dataset": "cars196"})) == 98
  with pytest.raises(planning.PlanError, match="--num_classes: needed"):
    plans._num_classes(tiny_config(**keys, **{"data.dataset": "image_folder/garden"}))


def test_a_config_that_cannot_run():
  with pytest.raises(ConfigError, match="batch_size"):
    plans.plan(tiny_config(), here(devices=3))
  with pytest.raises(ConfigError, match="embedding"):
    plans.plan(tiny_config(**{"embedding.dim": -1}), here())


def test_weights_are_asked_for_their_size_alone():
  keys = {"data.image_size": 0, "encoder.init": "/nowhere"}
  with pytest.raises(ConfigError, match=r"config\.encoder\.init: /nowhere: no such file"):
    plans.plan(tiny_config(**keys), here())


def test_warnings():
  config = tiny_config(**{"data.batch_size": 24, "embedding.dim": 96})
  tpu = CHIP._replace(platform="tpu")
  found = " ".join(plans._warnings(plans.setup.resolve(config), tpu, 6, None, 2))
  for part in ("bfloat16", "multiple of 8", "embedding.dim=96", "2 classes make batches of"):
    assert part in found


@pytest.mark.parametrize("target", ["v5e:2x2", "h100", "h100:8"])
def test_for_a_real_chip(target, capsys):
  module = "libtpu" if target.startswith("v5e") else "jax_cuda12_plugin"
  if importlib.util.find_spec(module) is None:
    pytest.skip(f"{module} is not installed")
  if os.environ.get("JAX_PLATFORMS") != "cpu":
    pytest.skip("other tests of this process have looked for a GPU: set JAX_PLATFORMS=cpu")
  options = ["--config=configs/hdml_glyphs.py", "--config.data.batch_size=128", "--json"]
  assert commands.main(["plan", f"--target={target}", *options]) == 0
  plan = json.loads(capsys.readouterr().out)
  step = plan["step"]
  assert step["fits"] and step["traffic_bytes"] > plan["parameter_bytes"]
  if plan["chips"] > 1:
    assert step["collectives"]["all-reduce"]["bytes"] > 4 * plan["parameters"]
