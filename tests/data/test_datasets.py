import dataclasses
import json
import os
import pickle
import shutil

import cv2
import numpy as np
import pytest

from jaxdml import _files, commands, data
from jaxdml.data import bundled, catalog, records


def _label_of(encoded):
  return int(cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)[0, 0, 0])


@pytest.mark.parametrize("split, classes", [("train", range(0, 98)), ("test", range(98, 196))])
def test_cars_joins_the_official_splits_and_divides_the_classes(cars_dir, split, classes):
  cars = data.load("cars196", split, data_dir=cars_dir)
  # The miniature has labels 0, 3, ... in train and 1, 4, ... in test, one image each.
  expected = sorted(c for c in classes if c % 3 < 2)
  assert sorted(cars.labels["label"].tolist()) == expected
  assert cars.labels["label"].dtype == np.int32
  order = np.random.default_rng(0).permutation(len(cars))
  assert [_label_of(b) for b in cars.read(order)] == cars.labels["label"][order].tolist()
  assert cars.default_label == "label"
  assert cars.label_names("label")[3] == "car 3"
  assert set(cars.labels) == {"label"}


def test_any_prepared_data_set(cars_dir):
  both = data.load("tfds:cars196", "test+train", data_dir=cars_dir)
  test = data.load("tfds:cars196", "test", data_dir=cars_dir)
  assert len(both) == 131 and len(test) == 65
  np.testing.assert_array_equal(both.labels["label"][:65], test.labels["label"])
  assert [_label_of(b) for b in both.read([0, 130])] == both.labels["label"][[0, 130]].tolist()
  with pytest.raises(ValueError, match=r"no split 'val'; it has test, train"):
    data.load("tfds:cars196", "val", data_dir=cars_dir)


def test_unknown_names(data_dir, digits):
  with pytest.raises(ValueError, match=r"unknown data set 'cars'; valid names are digits, glyphs"):
    data.load("cars", "train", data_dir=data_dir)
  with pytest.raises(ValueError, match=r"'digits' has no split 'val'; it has train, test"):
    data.load("digits", "val", data_dir=data_dir)
  with pytest.raises(ValueError, match=r"no label column 'digit'; it has \['label', 'parity'\]"):
    digits["train"].column("digit")


@pytest.mark.parametrize(
  "name", [name for name, rule in catalog.PUBLIC.items() if rule.by_tfds is None]
)
def test_a_missing_public_data_set_says_how_to_get_it(tmp_path, name):
  with pytest.raises(data.DatasetNotPreparedError) as error:
    data.load(name, "train", data_dir=tmp_path)
  message = str(error.value)
  assert "TFDS_DATA_DIR" in message and f"(jaxdml prepare {name} --help names them" in message
  command = f"jaxdml prepare {name} --source=THAT_DIRECTORY --data_dir={tmp_path}"
  assert command in message
  # What it says works, but for the directory.
  assert commands.main([*command.split()[1:], "--overwrite"]) == 2


def test_tfds_layout_of_cub_points_to_ours(tmp_path):
  with pytest.raises(data.DatasetNotPreparedError) as error:
    data.load("caltech_birds2011", "train", data_dir=tmp_path)
  assert "jaxdml prepare cub200_2011 --source=" in str(error.value)
  assert "tfds build caltech_birds2011 --file_format=array_record" in str(error.value)


def test_a_missing_image_folder_says_how_to_get_it(tmp_path):
  with pytest.raises(data.DatasetNotPreparedError) as error:
    data.load("image_folder/birds", "train", data_dir=tmp_path)
  assert "jaxdml prepare image_folder --source=FOLDER_WITH_THE_PHOTOS --name=birds" in str(
    error.value
  )


@pytest.fixture
def many(tmp_path):
  """A directory in which some data sets look prepared."""
  for name in ("digits", "food101", "glue/cola", "image_folder/Garden", "image_folder/park"):
    folder = tmp_path / name / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").touch()
  for name in ("image_folder/started/.incomplete-1.0.0", "downloads/extracted", ".x/1.0.0"):
    (tmp_path / name).mkdir(parents=True)
  (tmp_path / ".x/1.0.0/dataset_info.json").touch()
  return tmp_path


@pytest.mark.parametrize(
  ("name", "error", "meant"),
  [
    ("image_folder/gardn", data.DatasetNotPreparedError, "image_folder/Garden"),
    ("image_folder/garden", data.DatasetNotPreparedError, "image_folder/Garden"),
    ("image_folder/digts", data.DatasetNotPreparedError, "digits"),
    ("image_folder/zoo", data.DatasetNotPreparedError, None),
    ("tfds:food11", data.DatasetNotPreparedError, "tfds:food101"),
    ("food101", ValueError, "tfds:food101"),
    ("garden", ValueError, "image_folder/Garden"),
    ("glyps", ValueError, "glyphs"),
    ("cub200", ValueError, "cub200_2011"),
  ],
)
def test_a_misspelt_data_set_is_answered_with_what_there_is(many, name, error, meant):
  with pytest.raises(error) as raised:
    data.load(name, "train", data_dir=many)
  message = str(raised.value)
  there = "Prepared there: digits, tfds:food101, tfds:glue/cola, image_folder/Garden, image_folder/"
  assert str(many) in message and there in message and "started" not in message
  assert (f"; did you mean {meant!r}?" in message) if meant else "did you mean" not in message


def test_an_empty_data_directory_is_said_to_be_so(tmp_path):
  for root in (tmp_path, tmp_path / "nowhere"):
    with pytest.raises(data.DatasetNotPreparedError, match=r"Nothing is prepared there\. Another"):
      data.load("image_folder/garden", "train", data_dir=root)


def test_a_missing_other_data_set_says_how_to_get_it(tmp_path):
  with pytest.raises(data.DatasetNotPreparedError, match="tfds build food101 --file_format"):
    data.load("tfds:food101", "train", data_dir=tmp_path)


def test_tfrecord_is_refused_with_the_command_that_converts_it(tmp_path, cars_dir):
  shutil.copytree(cars_dir, tmp_path / "tfds")
  directory = tmp_path / "tfds" / "cars196" / "2.1.0"
  info = json.loads((directory / "dataset_info.json").read_text())
  info["fileFormat"] = "tfrecord"
  (directory / "dataset_info.json").write_text(json.dumps(info))
  with pytest.raises(data.DatasetNotPreparedError) as error:
    data.load("cars196", "train", data_dir=tmp_path / "tfds")
  expected = f"tfds convert_format --dataset_version_dir={directory} --out_file_format=array_record"
  assert expected in str(error.value) and "tfrecord" in str(error.value)
  # What is prepared here is a newer version, and is taken.
  assert f"jaxdml prepare cars196 --source=DIRECTORY --data_dir={tmp_path / 'tfds'}" in str(
    error.value
  )


def test_the_newest_version_is_taken(tmp_path):
  for version in ("1.9.0", "1.10.0", "incomplete.ABC_2.0.0", "2.0.0"):
    (tmp_path / "x" / version).mkdir(parents=True)
    if version != "2.0.0":  # Not finished: it has no description.
      (tmp_path / "x" / version / "dataset_info.json").write_text("{}")
  assert records.find_version(tmp_path, "x") == tmp_path / "x" / "1.10.0"
  assert records.find_version(tmp_path, "y") is None


def test_labels_come_from_the_side_file(tmp_path, cars_dir, monkeypatch):
  shutil.copytree(cars_dir, tmp_path / "tfds")
  path = tmp_path / "tfds" / "cars196" / "2.1.0" / records.INDEX_FILE
  path.unlink(missing_ok=True)
  first = data.load("cars196", "train", data_dir=tmp_path / "tfds")
  assert path.is_file()
  assert not [p for p in path.parent.iterdir() if p.name.startswith(".")]

  def no_scan(*_):
    raise AssertionError("the records were read for their labels again")

  monkeypatch.setattr(records, "_scan", no_scan)
  again = data.load("cars196", "train", data_dir=tmp_path / "tfds")
  np.testing.assert_array_equal(first.labels["label"], again.labels["label"])
  monkeypatch.undo()
  path.write_bytes(path.read_bytes()[:100])
  damaged = data.load("cars196", "train", data_dir=tmp_path / "tfds")
  np.testing.assert_array_equal(first.labels["label"], damaged.labels["label"])


def test_the_side_file_of_other_records_is_not_used(tmp_path, cars_dir):
  shutil.copytree(cars_dir, tmp_path / "tfds")
  directory = tmp_path / "tfds" / "cars196" / "2.1.0"
  stale = {"train/label": np.zeros(3, np.int32), "test/label": np.zeros(3, np.int32)}
  np.savez(directory / records.INDEX_FILE, fingerprint=np.asarray("other"), **stale)
  assert len(data.load("cars196", "train", data_dir=tmp_path / "tfds")) == 66


def test_a_directory_that_cannot_be_written_still_loads(tmp_path, cars_dir, monkeypatch):
  shutil.copytree(cars_dir, tmp_path / "tfds")
  path = tmp_path / "tfds" / "cars196" / "2.1.0" / records.INDEX_FILE
  path.unlink(missing_ok=True)

  def refuse(*_, **__):
    raise PermissionError("read-only")

  monkeypatch.setattr(_files, "replacing", refuse)
  assert len(data.load("cars196", "train", data_dir=tmp_path / "tfds")) == 66
  assert not path.exists()


def test_pickles_small_and_reads_again(digits):
  train = digits["train"]
  expected = train.read([5, 3, 5])
  copy = pickle.loads(pickle.dumps(train))
  assert "_source" not in copy.__dict__
  assert copy.read(np.array([5, 3, 5])) == expected
  assert copy.read([]) == []


def test_indices_out_of_range(digits):
  for bad in ([-1], [0, len(digits["train"])]):
    with pytest.raises(IndexError, match=r"record index outside 0\.\.\d+ of data set 'digits'"):
      digits["train"].read(bad)


def test_select(digits):
  train = digits["train"]
  part = train.select([7, 2, 2])
  assert len(part) == 3
  assert part.read([0, 1]) == train.read([7, 2])
  np.testing.assert_array_equal(part.labels["label"], train.labels["label"][[7, 2, 2]])
  odd = train.select(train.labels["parity"] == 1)
  assert odd.classes("label").tolist() == [1, 3, 5, 7, 9]
  np.testing.assert_array_equal(
    odd.classes("label")[odd.dense_labels("label")], odd.labels["label"]
  )


def test_an_unknown_label_is_no_class(digits):
  column = np.array(digits["train"].labels["label"])
  column[::3] = -1
  part = dataclasses.replace(digits["train"], labels={"label": column})
  assert part.classes("label").tolist() == list(range(10))
  assert ((part.dense_labels("label") == -1) == (column == -1)).all()
  groups = data.with_groups(part, "label//5").labels["label//5"]
  assert ((groups == -1) == (column == -1)).all() and groups.max() == 1


def test_default_data_dir(monkeypatch, tmp_path):
  monkeypatch.setenv("TFDS_DATA_DIR", os.fspath(tmp_path))
  assert bundled.default_data_dir() == tmp_path
  monkeypatch.delenv("TFDS_DATA_DIR")
  assert bundled.default_data_dir().name == "tensorflow_datasets"
