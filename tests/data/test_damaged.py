"""Prepared data sets whose files are damaged, changed by hand or made to deceive."""

import io
import json
import random
import shutil
import zipfile

import numpy as np
import pytest

from jaxdml import data
from jaxdml.data import records
from jaxdml.prepare import writing
from tests.prepare.test_writing import Photos

NAME = "image_folder/photos"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  root = tmp_path_factory.mktemp("whole")
  writing.write(Photos(), root)
  return root


@pytest.fixture
def root(whole, tmp_path):
  return shutil.copytree(whole, tmp_path / "tfds")


def directory(root):
  return root.joinpath(*NAME.split("/"), "1.0.0")


def load(root):
  return data.load(NAME, "train", data_dir=root)


def test_a_damaged_index_of_labels_is_made_again(root):
  expected = load(root).labels["label"]
  path = directory(root) / records.INDEX_FILE
  content, rng = path.read_bytes(), random.Random(0)
  for _ in range(100):
    damaged = bytearray(content)
    damaged[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(damaged)
    np.testing.assert_array_equal(load(root).labels["label"], expected)
  for cut in (0, 10, len(content) // 2, len(content) - 1):
    path.write_bytes(content[:cut])
    np.testing.assert_array_equal(load(root).labels["label"], expected)


@pytest.mark.parametrize("shape", [(2**50,), (3, 7), ()])
def test_an_index_that_claims_another_size_is_made_again(root, shape):
  expected = load(root).labels["label"]
  path = directory(root) / records.INDEX_FILE
  with np.load(path) as stored:
    arrays = dict(stored)
  with zipfile.ZipFile(path, "w") as file:
    for name, array in arrays.items():
      member = io.BytesIO()
      np.lib.format.write_array(member, array)
      content = member.getvalue()
      if name == "train/label":
        header = io.BytesIO()
        kind = {"descr": "<i4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(header, kind)
        content = header.getvalue() + array.tobytes()
      file.writestr(f"{name}.npy", content)
  np.testing.assert_array_equal(load(root).labels["label"], expected)


def test_an_index_that_unpacks_to_far_more_is_not_unpacked(root, monkeypatch):
  expected = load(root).labels["label"]
  np.savez_compressed(directory(root) / records.INDEX_FILE, bomb=np.zeros(2**24, np.uint8))
  monkeypatch.setattr(np.lib.format, "read_array", lambda *_, **__: pytest.fail("unpacked"))
  np.testing.assert_array_equal(load(root).labels["label"], expected)


@pytest.mark.parametrize(
  ("file", "old", "new"),
  [
    ("label.labels.txt", "ärmel", "hose"),
    ("label.labels.txt", "b\nc", "c\nb"),
    ("features.json", '"numClasses": "3"', '"numClasses": "4"'),
    ("dataset_info.json", '"photos"', '"photon"'),
  ],
)
def test_what_describes_a_prepared_set_is_as_it_was_written(root, file, old, new):
  path = directory(root) / file
  text = path.read_text()
  assert old in text
  path.write_text(text.replace(old, new))
  with pytest.raises(records.DamagedDatasetError, match=f"{file} changed since it was prepared"):
    load(root)
  path.write_text(text)
  load(root)
  path.unlink()
  if file != "dataset_info.json":  # Without that it is not there at all.
    with pytest.raises(records.DamagedDatasetError, match=f"{file} changed"):
      load(root)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"splits": 3}', "\xff"])
def test_a_description_that_cannot_be_read_is_said(root, content):
  (directory(root) / records.SOURCE_FILE).unlink()  # As in data sets that TFDS wrote.
  (directory(root) / "dataset_info.json").write_text(content)
  with pytest.raises(records.DamagedDatasetError, match="its description cannot be read"):
    data.load(f"tfds:{NAME}", "train", data_dir=root)


@pytest.mark.parametrize("content", ["", "[1]", "\x00"])
def test_what_it_was_made_from_cannot_be_read(root, content):
  (directory(root) / records.SOURCE_FILE).write_text(content)
  with pytest.raises(records.DamagedDatasetError, match=r"jaxdml-source\.json cannot be read"):
    load(root)


def test_only_classes_of_tfds_are_imported(root, tmp_path, monkeypatch):
  (tmp_path / "evil_features.py").write_text("raise SystemExit('imported')")
  monkeypatch.syspath_prepend(tmp_path)
  (directory(root) / records.SOURCE_FILE).unlink()
  path = directory(root) / "features.json"
  features = json.loads(path.read_text())
  for key in ("pythonClassName", "python_class_name"):
    features["featuresDict"]["features"]["label"] = {key: "evil_features.Label"}
    path.write_text(json.dumps(features))
    with pytest.raises(records.DamagedDatasetError, match=r"names 'evil_features\.Label'"):
      data.load(f"tfds:{NAME}", "train", data_dir=root)


@pytest.mark.parametrize("kind", ["zeros", "empty", "gone"])
def test_a_damaged_shard_is_named(root, kind):
  train = load(root)
  (path,) = directory(root).glob("*train*")
  if kind == "gone":
    path.unlink()
  else:
    path.write_bytes(bytes(path.stat().st_size) if kind == "zeros" else b"")
  with pytest.raises(records.DamagedDatasetError, match=f"{path.name} cannot be read: ") as error:
    train.read([0, 3])
  assert "Prepare it anew" in str(error.value) and "\n" not in str(error.value)
