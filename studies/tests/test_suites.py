"""Every arm of every suite is a config that can run, with an equal share of tuning."""

import collections

import pytest

from jaxdml import training
from jaxdml.training import config as config_lib
from studies.suites import SUITES

ARMS = [(suite, arm) for suite in SUITES.values() for arm in suite.arms]


@pytest.mark.parametrize(
  ("suite", "arm"), ARMS, ids=lambda x: x.name if hasattr(x, "about") else f"{x.loss}-{x.method}"
)
def test_every_candidate_is_a_valid_config(suite, arm):
  for overrides in arm.candidates:
    config = arm.make()
    known = {key for key, _ in config_lib.flatten(config.to_dict()).items()}
    assert overrides.keys() <= known
    config.update_from_flattened_dict(dict(overrides))
    config.encoder.init = ""  # Its weights need not be here.
    training.resolve(config, 1)
  assert config.hdml.enabled == ("HDML" in arm.method)
  assert (config.mining.positive == "nearest_positive") == ("EPS" in arm.method)
  assert (config.mining.positive == "random_positive") >= (arm.method == "random positive")
  assert config.loss.name == arm.loss


@pytest.mark.parametrize("suite", SUITES.values(), ids=lambda suite: suite.name)
def test_arms_of_a_task_differ_in_loss_and_method_alone(suite):
  by_task = collections.defaultdict(list)
  for arm in suite.arms:
    by_task[arm.task].append(arm)
  for arms in by_task.values():
    assert len({(arm.loss, arm.method) for arm in arms}) == len(arms)
    assert len({len(arm.candidates) for arm in arms}) == 1, "unequal tuning"
    shared = [
      {k: v for k, v in config_lib.flatten(arm.make().to_dict()).items() if k.startswith(section)}
      for section in ("data.", "encoder.", "embedding.", "optimizer.", "train.", "eval.")
      for arm in arms
    ]
    for section in range(6):
      block = shared[section * len(arms) : (section + 1) * len(arms)]
      assert all(keys == block[0] for keys in block)
    selects = arms[0].make().eval.select_by != "last"
    assert selects == (len(arms[0].candidates) > 1)


def test_hdml_is_compared_with_the_same_tuples():
  arms = {(arm.loss, arm.method): arm.make() for arm in SUITES["glyphs"].arms}
  for (loss, method), config in arms.items():
    if "HDML" in method:
      without = arms[loss, {"HDML": "plain", "EPS+HDML": "EPS"}[method]]
      assert config.mining == without.mining and config.loss == without.loss
