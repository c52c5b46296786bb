import shutil

import cv2
import numpy as np
import pytest

from jaxdml import data
from jaxdml.commands import prepare
from jaxdml.data import decode
from jaxdml.prepare import cars196, cub200_2011, inshop, stanford_online_products
from jaxdml.prepare.official import Count
from jaxdml.prepare.source import PrepareError
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


@pytest.mark.parametrize("name, form", [(name, form) for name, fs in FORMS.items() for form in fs])
def test_official_forms(tmp_path, name, form):
  write, extracted, moves = FORMS[name][form]
  photos = write(tmp_path / "source", extracted=extracted)
  official.move(tmp_path / "source", *moves)
  assert official.run(name, tmp_path, "--allow_partial") == 0
  official.check(name, tmp_path, photos)


def test_archives_and_extracted_folders_mix(tmp_path):
  photos = official.write_cars_devkit(tmp_path / "source")
  official.write_cars_devkit(tmp_path / "other", extracted=True)
  (tmp_path / "source" / "cars_train.tgz").unlink()
  (tmp_path / "source" / "car_devkit.tgz").unlink()
  official.move(
    tmp_path, ("other/cars_train", "source/cars_train"), ("other/devkit", "source/devkit")
  )
  assert official.run("cars196", tmp_path, "--allow_partial") == 0
  official.check("cars196", tmp_path, photos)


@pytest.mark.parametrize("name", ["cub200_2011", "stanford_online_products"])
def test_the_extracted_folder_itself(tmp_path, name):
  photos = official.WRITERS[name](tmp_path / "extracted", extracted=True)
  folder = {"cub200_2011": "CUB_200_2011"}.get(name, "Stanford_Online_Products")
  official.move(tmp_path, (f"extracted/{folder}", "source"))
  assert official.run(name, tmp_path, "--allow_partial") == 0
  official.check(name, tmp_path, photos)


def test_names_and_coarse_labels(tmp_path):
  for name in ("cars196", "cub200_2011", "stanford_online_products", "inshop"):
    official.prepare(name, tmp_path / name)
  cars = data.load("cars196", "test", data_dir=tmp_path / "cars196" / "tfds")
  assert cars.label_names("label")[98] == "Maker Model 99 2012"
  cub = data.load("cub200_2011", "test", data_dir=tmp_path / "cub200_2011" / "tfds")
  assert cub.label_names("label")[100] == "101.Bird_101"
  sop = data.load(
    "stanford_online_products", "test", data_dir=tmp_path / "stanford_online_products" / "tfds"
  )
  assert set(sop.labels) == {"class_id", "super_class_id"}
  assert sop.classes("class_id").tolist() == [11318, 11319, 11320, 11321]
  kinds = np.array(sop.label_names("super_class_id"))[sop.labels["super_class_id"]]
  assert [kind in sop.path(i) for i, kind in enumerate(kinds)] == [True] * 12
  shop = data.load("inshop", "test", data_dir=tmp_path / "inshop" / "tfds")
  assert set(shop.labels) == {"label", "category", "gallery"}
  assert shop.label_names("category") == ["MEN/Denim", "WOMEN/Dresses"]
  for i in range(len(shop)):
    assert f"/{shop.label_names('label')[shop.labels['label'][i]]}/" in shop.path(i)
    assert shop.label_names("category")[shop.labels["category"][i]] in shop.path(i)


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
def test_published_counts(tmp_path, capsys, name):
  photos = official.WRITERS[name](tmp_path / "source")
  assert official.run(name, tmp_path) == 2
  error = capsys.readouterr().err
  expected = {
    "cars196": "train: 8,054 images of 98 classes expected, 12 images of 4 classes found",
    "cub200_2011": "test: 5,924 images of 100 classes expected, 12 images of 4 classes found",
    "stanford_online_products": "train: 59,551 images of 11,318 classes expected, 12 images of 4",
    "inshop": "gallery: 12,612 images of 3,985 classes expected, 8 images of 4 classes found",
  }
  assert expected[name] in error and "--allow_partial" in error
  assert not (tmp_path / "tfds").exists()
  module = prepare.OFFICIAL[name]
  splits = {p.split for p in photos}
  counts = {
    s: Count(len(labels), len(set(labels)))
    for s, labels in ((s, [p.label for p in photos if p.split == s]) for s in splits)
  }
  assert set(counts) == set(module.EXPECTED)
  whole = module.source(tmp_path / "source", expected=counts)
  assert "PARTIAL" not in whole.description
  one_less = {**counts, "train": counts["train"]._replace(images=11)}
  with pytest.raises(PrepareError, match=r"train: 11 images of 4 classes expected, 1\d images"):
    module.source(tmp_path / "source", expected=one_less)


def test_published_counts_are_those_of_the_literature():
  counts = {m.NAME: m.EXPECTED for m in (cars196, cub200_2011, stanford_online_products, inshop)}
  assert {n: sum(c.images for c in e.values()) for n, e in counts.items()} == {
    "cars196": 16_185,
    "cub200_2011": 11_788,
    "stanford_online_products": 120_053,
    "inshop": 52_712,
  }


def test_a_finished_data_set_is_said_to_be_there(tmp_path, capsys):
  root, _ = official.prepare("inshop", tmp_path)
  capsys.readouterr()
  shutil.rmtree(tmp_path / "source")
  assert official.run("inshop", tmp_path) == 0
  captured = capsys.readouterr()
  assert captured.out.strip() == str(root / "inshop" / "1.0.0")
  assert "already prepared; --overwrite makes it anew" in captured.err
  assert (
    official.run("inshop", tmp_path, "--overwrite") == 2
  )  # Its files are gone; the old one stays.
  assert len(data.load("inshop", "train", data_dir=root)) == 16


def test_image_folder(tmp_path, capsys):
  for label in range(4):
    for i in range(3):
      file = {f"class {label}/{i}.jpg": official.jpeg(3 * label + i)}
      official.unpack(tmp_path / "source", file)
  assert official.run("image_folder", tmp_path, "--name=mine", "--test_share=0.25", "--seed=1") == 0
  train = data.load("image_folder/mine", "train", data_dir=tmp_path / "tfds")
  assert len(train) == 9 and train.default_label == "label"
  assert train.read([0]) == [(tmp_path / "source" / train.path(0)).read_bytes()]
  assert len(data.load("image_folder/mine", "train+test", data_dir=tmp_path / "tfds")) == 12
  capsys.readouterr()
  assert official.run("image_folder", tmp_path, "--name=mine", "--test_share=0.25", "--seed=1") == 0
  assert "already prepared; --overwrite" in capsys.readouterr().err
  official.unpack(tmp_path / "source", {"class 0/new.jpg": official.jpeg(99)})
  # Other photos are no success: what trains next would train on the old ones.
  assert official.run("image_folder", tmp_path, "--name=mine", "--test_share=0.25", "--seed=1") == 2
  captured = capsys.readouterr()
  (error,) = [line for line in captured.err.splitlines() if line.startswith("error: ")]
  assert "image_folder/mine is already prepared, from OTHER photos or options" in error
  assert "--overwrite makes it anew" in error and captured.out == ""
  assert len(data.load("image_folder/mine", "train+test", data_dir=tmp_path / "tfds")) == 12
  assert official.run("image_folder", tmp_path, "--name=../x") == 2
  assert "name must be letters" in capsys.readouterr().err


def test_image_folder_of_smaller_pictures(tmp_path, capsys):
  large = cv2.imencode(".jpg", np.full((90, 120, 3), 99, np.uint8))[1].tobytes()
  small = cv2.imencode(".png", np.full((30, 40, 3), 9, np.uint8))[1].tobytes()
  for place, encoded in enumerate([large, small, large[:-50], small]):
    path = tmp_path / "source" / f"class {place // 2}" / f"{place}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded)
  options = ["--name=own", "--max_side=40", "--max_bad=0.25"]
  assert official.run("image_folder", tmp_path, *options) == 0
  assert "class 1/2.jpg: a JPEG that is cut short" in capsys.readouterr().err
  found = {}
  for split in ("train", "test"):
    part = data.load("tfds:image_folder/own", split, data_dir=tmp_path / "tfds")
    found |= {part.path(i): encoded for i, encoded in enumerate(part.read(range(len(part))))}
  assert set(found) == {"class 0/0.jpg", "class 0/1.jpg", "class 1/3.jpg"}
  assert found["class 0/1.jpg"] == found["class 1/3.jpg"] == small
  assert decode.probe(found["class 0/0.jpg"])[:3] == ("JPEG", 30, 40)
  for given, status, said in (
    (options, 0, "already prepared; "),
    (options[:1], 2, "OTHER photos or options"),
  ):
    assert official.run("image_folder", tmp_path, *given) == status
    assert said in capsys.readouterr().err
  assert official.run("image_folder", tmp_path, "--name=other", "--max_side=0") == 2
  assert "max_side must be at least 1 pixel, got 0" in capsys.readouterr().err


def test_help_names_every_archive(capsys):
  with pytest.raises(SystemExit) as status:
    prepare.main(["--help"])
  text = capsys.readouterr().out
  assert status.value.code == 0
  for word in (
    *("car_ims.tgz", "cars_annos.mat", "cars_test_annos_withlabels.mat", "CUB_200_2011.tgz"),
    *("Stanford_Online_Products.zip", "img.zip", "list_eval_partition.txt", "--manifest", "glyphs"),
  ):
    assert word in text
  assert max(map(len, text.splitlines())) <= 100
  for wrong in (["cars"], ["cars196"], ["cars196", "--source=.", "--max_bad=much"]):
    with pytest.raises(SystemExit) as status:
      prepare.main(wrong)
    assert status.value.code == 2
