"""Targets by their names, and what is said of those that cannot be had."""

import importlib.util
import math

import jax
import pytest

from jaxdml import planning
from jaxdml.planning import targets


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("v9:2x2", "expected a chip and its slice, one of v4:2x2x1, v5e:2x2"),
    ("", "expected a chip and its slice"),
    ("v5e:two", "expected a slice such as v5e:2x2"),
    ("v5e:0x2", "expected a slice such as v5e:2x2"),
    ("h100:", None),
  ],
)
def test_names(text, message, monkeypatch):
  monkeypatch.setattr(targets, "_described", lambda *args, **options: [None])
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
  if message is None:
    assert planning.target(text).name == "h100:1"
    return
  with pytest.raises(planning.PlanError, match=message):
    planning.target(text)


@pytest.mark.parametrize(("text", "extra"), [("v5e:2x2", "plan-tpu"), ("h100:8", "plan-gpu")])
def test_without_its_compiler(text, extra, monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(planning.PlanError, match=rf"pip install 'jaxdml\[{extra}\]'"):
    planning.target(text)


def test_slices_of_gpus(monkeypatch):
  asked = []
  monkeypatch.setattr(targets, "_described", lambda *args, **options: asked.append(options) or [])
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
  for text in ("h100", "a100:8", "h200:2x4"):
    planning.target(text)
  assert [options["topology"] for options in asked] == ["1x1x1", "1x1x8", "1x2x4"]
  assert "core_count: 108" in asked[1]["target_config"]
  with pytest.raises(planning.PlanError, match="hosts x GPUs"):
    planning.target("h100:2x2x2")


def test_what_a_ring_sends():
  assert targets.transfers(8.0, "all-gather", 4) == 6.0
  assert targets.transfers(8.0, "all-reduce", 4) == 12.0
  assert targets.transfers(8.0, "all-reduce", 1) == 0.0


class Lowered:
  """A program whose compilation ends in these errors, one after another."""

  def __init__(self, *errors):
    self.errors, self.options = list(errors), []

  def compile(self, compiler_options):
    self.options.append(compiler_options)
    if self.errors:
      raise jax.errors.JaxRuntimeError(self.errors.pop(0))
    return "compiled"


def chips(name):
  return targets.Target(name, targets.CHIPS[name], [None], {"level": 0})


def test_a_refusal_is_one_line():
  lowered = Lowered("INTERNAL: Mosaic failed:\n  at here\n\nA long story\nfollows")
  with pytest.raises(planning.PlanError) as caught:
    chips("v5e").compile(lowered)
  assert str(caught.value) == "v5e: the compiler refused: INTERNAL: Mosaic failed: at here"
  with pytest.raises(targets.OutOfMemory, match="Used 20G"):
    chips("v5e").compile(Lowered("RESOURCE_EXHAUSTED: Used 20G of 15.75G hbm"))


def test_products_without_tiles_are_cublas_work():
  lowered = Lowered("INTERNAL: Couldn't find output tile sizes that satisfy hlo")
  assert chips("h100").compile(lowered) == "compiled"
  assert lowered.options == [{"level": 0}, {"level": 0, "xla_gpu_enable_triton_gemm": False}]
  with pytest.raises(planning.PlanError, match="tile sizes"):
    chips("v5e").compile(Lowered("INTERNAL: no tile sizes"))


def test_nothing_is_kept_on_disk_for_a_chip_that_is_not_here():
  before = jax.config.jax_persistent_cache_min_compile_time_secs
  least = []

  class Looking(Lowered):
    def compile(self, compiler_options):
      least.append(jax.config.jax_persistent_cache_min_compile_time_secs)

  chips("v5e").compile(Looking())
  assert least == [math.inf] and jax.config.jax_persistent_cache_min_compile_time_secs == before
