"""Public data sets from their archives: what is read; two of them from the command to `load`."""

import dataclasses

import numpy as np
import pytest

from jaxdml import data
from jaxdml.prepare import CARDS, PrepareError
from jaxdml.prepare.official import Count
from tests.data import official

FORMS = {
  "cars196": {
    "archive": (official.write_cars, False, ()),
    "extracted": (official.write_cars, True, ()),
    ".tar.gz": (official.write_cars, False, [("car_ims.tgz", "car_ims.tar.gz")]),
    "devkit": (official.write_cars_devkit, False, ()),
    "devkit extracted": (
      official.write_cars_devkit,
      True,
      [  # As people have it who followed torchvision or Kaggle.
        ("cars_test_annos_withlabels.mat", "devkit/cars_test_annos_withlabels.mat"),
        ("cars_train", "x/cars_train"),
        ("x/cars_train", "cars_train/cars_train"),
      ],
    ),
  },
  "cub200_2011": {
    "archive": (official.write_cub, False, ()),
    "extracted": (official.write_cub, True, ()),
  },
  "stanford_online_products": {
    "archive": (official.write_sop, False, ()),
    "extracted": (official.write_sop, True, ()),
  },
  "inshop": {
    "archive": (official.write_inshop, False, ()),
    "extracted": (official.write_inshop, True, ()),
    "folders": (
      official.write_inshop,
      False,
      [("img.zip", "Img/img.zip"), ("list_eval_partition.txt", "Eval/list_eval_partition.txt")],
    ),
  },
}


def read(name, root):
  return CARDS[name].source(root / "source", allow_partial=True)


def check(source, photos):
  """The source has these photos, byte for byte, with their labels and splits."""
  expected = {photo.path: photo for photo in photos}
  assert len(source.items) == len(expected)
  for item, encoded in zip(source.items, source.read(0), strict=True):
    photo = expected[item.path]
    assert (item.split, item.values[source.supervised]) == (photo.split, photo.label)
    assert encoded == photo.encoded
  # Reading may begin anywhere, as after an interruption.
  assert next(source.read(len(photos) - 1)) == expected[source.items[-1].path].encoded


@pytest.mark.parametrize("name, form", [(name, form) for name, fs in FORMS.items() for form in fs])
def test_forms(tmp_path, name, form):
  write, extracted, moves = FORMS[name][form]
  photos = write(tmp_path / "source", extracted=extracted)
  official.move(tmp_path / "source", *moves)
  check(read(name, tmp_path), photos)


# A tar is read from its start to its end, a zip at random.
@pytest.mark.parametrize("name", ["cars196", "inshop"])
def test_from_the_command_to_load(tmp_path, name):
  root, photos = official.prepare(name, tmp_path)
  official.check(name, root.parent, photos)


def test_every_card_is_whole():
  assert list(CARDS) == sorted(official.WRITERS)
  for name, card in CARDS.items():
    assert card.name == name and name in data.names() and card.help.count("\n") > 2
    assert card.homepage.startswith("https://") and "Encoded images as in" in card.description


def test_archives_and_extracted_folders_mix(tmp_path):
  photos = official.write_cars_devkit(tmp_path / "source")
  official.write_cars_devkit(tmp_path / "other", extracted=True)
  (tmp_path / "source" / "cars_train.tgz").unlink()
  (tmp_path / "source" / "car_devkit.tgz").unlink()
  official.move(
    tmp_path, ("other/cars_train", "source/cars_train"), ("other/devkit", "source/devkit")
  )
  check(read("cars196", tmp_path), photos)


@pytest.mark.parametrize("name", ["cub200_2011", "stanford_online_products"])
def test_the_extracted_folder_itself(tmp_path, name):
  photos = official.WRITERS[name](tmp_path / "extracted", extracted=True)
  folder = {"cub200_2011": "CUB_200_2011"}.get(name, "Stanford_Online_Products")
  official.move(tmp_path, (f"extracted/{folder}", "source"))
  check(read(name, tmp_path), photos)


def test_names_and_coarse_labels(tmp_path):
  sources = {}
  for name, write in official.WRITERS.items():
    write(tmp_path / name / "source")
    sources[name] = read(name, tmp_path / name)
  assert sources["cars196"].features["label"].names[98] == "Maker Model 99 2012"
  assert sources["cub200_2011"].features["label"].names[100] == "101.Bird_101"
  sop = sources["stanford_online_products"]
  assert set(sop.features) == {"image", "path", "class_id", "super_class_id"}
  kinds = sop.features["super_class_id"].names
  assert all(kinds[item.values["super_class_id"]] in item.path for item in sop.items)
  shop = sources["inshop"]
  assert set(shop.features) == {"image", "path", "label", "category"}
  assert shop.features["category"].names == ["MEN/Denim", "WOMEN/Dresses"]
  for item in shop.items:
    assert f"/{shop.features['label'].names[item.values['label']]}/" in item.path
    assert shop.features["category"].names[item.values["category"]] in item.path


def test_queries_and_gallery_of_inshop(tmp_path):
  root, photos = official.prepare("inshop", tmp_path)
  test = data.load("inshop", "test", data_dir=root)
  of_path = {photo.path: photo.split for photo in photos}
  where = [of_path[test.path(i)] for i in range(len(test))]
  assert where == [("query", "gallery")[g] for g in test.labels["gallery"]]
  assert set(where) == {"query", "gallery"} and test.labels["gallery"].dtype == np.int32
  assert "gallery" not in data.load("inshop", "train", data_dir=root).labels
  again = data.load("tfds:inshop", "gallery", data_dir=root)
  assert len(again) == where.count("gallery")
  with pytest.raises(ValueError, match="no split 'query'; it has train, test"):
    data.load("inshop", "query", data_dir=root)


@pytest.mark.parametrize("name", official.LABELS)
def test_published_counts(tmp_path, name):
  photos = official.WRITERS[name](tmp_path / "source")
  card = CARDS[name]
  expected = {
    "cars196": "train: 8,054 images of 98 classes expected, 12 images of 4 classes found",
    "cub200_2011": "test: 5,924 images of 100 classes expected, 12 images of 4 classes found",
    "stanford_online_products": "train: 59,551 images of 11,318 classes expected, 12 images of 4",
    "inshop": "gallery: 12,612 images of 3,985 classes expected, 8 images of 4 classes found",
  }
  with pytest.raises(PrepareError) as error:
    card.source(tmp_path / "source")
  assert expected[name] in str(error.value) and "--allow_partial" in str(error.value)
  counts = {
    split: Count(len(labels), len(set(labels)))
    for split in card.expected
    if (labels := [photo.label for photo in photos if photo.split == split])
  }
  assert set(counts) == set(card.expected)
  whole = dataclasses.replace(card, expected=counts).source(tmp_path / "source")
  assert "PARTIAL" not in whole.description
  one_less = {**counts, "train": counts["train"]._replace(images=11)}
  with pytest.raises(PrepareError, match=r"train: 11 images of 4 classes expected, 1\d images"):
    dataclasses.replace(card, expected=one_less).source(tmp_path / "source")


def test_published_counts_are_those_of_the_literature():
  counts = {name: card.expected for name, card in CARDS.items()}
  assert {n: sum(c.images for c in e.values()) for n, e in counts.items()} == {
    "cars196": 16_185,
    "cub200_2011": 11_788,
    "stanford_online_products": 120_053,
    "inshop": 52_712,
  }
