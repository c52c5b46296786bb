"""From a config to its data: folds and groups."""

import dataclasses

import numpy as np
import pytest

from jaxdml import data, training
from jaxdml.training import setup
from jaxdml.training.config import ConfigError, replace
from tests.training.helpers import tiny_config


def _config(data_dir, **keys):
  keys = {"data.dataset": "digits", "data.preprocess": "digits", "data.data_dir": data_dir, **keys}
  return training.resolve(tiny_config(**keys))


def test_a_fold_validates_and_the_others_train(data_dir):
  for fold, classes in ((0, [0, 1, 2]), (3, [8, 9])):
    run = setup.prepare(_config(data_dir, **{"eval.folds": 4, "eval.fold": fold}))
    assert run.validation.classes("label").tolist() == classes
    assert run.train.classes("label").tolist() == sorted(set(range(10)) - set(classes))
    assert run.measured.classes("label").tolist() == list(range(10))
  with pytest.raises(ConfigError, match=r"config\.data: 11 folds need at least 22 classes"):
    setup.prepare(_config(data_dir, **{"eval.folds": 11}))


def test_a_data_set_without_test_split_trains(data_dir, monkeypatch):
  load = data.load

  def without_test(name, split, **options):
    if split == "test":
      raise ValueError("data set 'mine' has no split 'test'; it has train")
    return load(name, split, **options)

  monkeypatch.setattr(data, "load", without_test)
  config = _config(data_dir, **{"eval.validation_fraction": 0.3})
  with pytest.raises(ConfigError, match=r"it has train\. eval\.test=False measures"):
    setup.prepare(config)
  run = setup.prepare(replace(config, {"eval.test": False}))
  assert run.measured is run.validation and run.splits == {
    "train": run.train, "validation": run.validation
  }  # fmt: skip


def test_a_batch_of_two_groups(data_dir):
  keys = {
    "data.sampler": "hierarchical",
    "data.coarse_label": "parity",
    "data.batch_size": 16,
    "data.images_per_class": 2,
  }
  config = _config(data_dir, **keys)
  train = setup.prepare(config).train
  batch = setup.sampler(config, train)(0)
  parity = train.column("parity")[batch]
  assert (parity[:8] == parity[0]).all() and (parity[8:] == 1 - parity[0]).all()
  assert len(np.unique(train.column("label")[batch])) == 8
  with pytest.raises(ConfigError, match="no label column 'shape'"):
    setup.sampler(replace(config, {"data.coarse_label": "shape"}), train)


def test_training_keeps_pictures_where_the_config_says(data_dir, tmp_path):
  images = []
  for directory in ("", str(tmp_path)):
    config = _config(data_dir, **{"data.cache": directory})
    train = setup.prepare(config).train
    draw = setup.sampler(config, train)
    with setup.train_batches(config, train, draw, start=0, stop=1) as batches:
      images.append(next(batches)["image"])
  np.testing.assert_array_equal(*images)
  assert any(file.is_file() for file in tmp_path.rglob("*"))


@pytest.mark.parametrize("gallery", [False, True])
def test_images_without_a_match_cannot_select(data_dir, monkeypatch, gallery):
  """Each class has one image, or all others of it are unknown, or on the same side."""
  load = data.load

  def one_each(name, split, **options):
    images = load(name, split, **options)
    if split == "train":
      return images
    labels = images.column("label").copy()
    rows = np.concatenate([np.flatnonzero(labels == c)[:1] for c in range(10)])
    labels[rows[8:]] = -1
    columns = {**images.labels, "label": labels}
    if gallery:
      rows = np.concatenate([rows, np.flatnonzero(labels == 3)[1:4]])
      columns["gallery"] = np.isin(np.arange(len(labels)), rows[:3]).astype(np.int32)
    return dataclasses.replace(images, labels=columns).select(rows)

  monkeypatch.setattr(data, "load", one_each)
  run = setup.prepare(_config(data_dir))
  message = rf"config\.eval\.select_by=map@r: none of the {len(run.measured)} images of digits test"
  with pytest.raises(ConfigError, match=message):
    setup.trace(run)
  setup.trace(dataclasses.replace(run, config=replace(run.config, {"eval.select_by": "last"})))
  held_out = setup.prepare(_config(data_dir, **{"eval.validation_fraction": 0.3}))
  assert held_out.selecting is held_out.validation
  setup.trace(held_out)
