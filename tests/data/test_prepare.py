import os
import shutil
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

from jaxdml import data
from jaxdml.data import decode, prepare
from jaxdml.data.builders import cars196, cub200_2011, inshop, stanford_online_products
from jaxdml.data.builders.official import Count
from jaxdml.data.builders.records import PrepareError
from tests.data import official

LABELS = {
  "cars196": "label",
  "cub200_2011": "label",
  "stanford_online_products": "class_id",
  "inshop": "label",
}


def run(name, root, *options):
  return prepare.main(
    [name, f"--source={root / 'source'}", f"--data_dir={root / 'tfds'}", *options]
  )


def check(name, root, photos):
  """The prepared data set has these photos, byte for byte, with their labels and splits."""
  for split in ("train", "test"):
    part = data.load(name, split, data_dir=root / "tfds")
    expected = {p.path: p for p in photos if (p.split == "train") == (split == "train")}
    assert part.default_label == LABELS[name] and len(part) == len(expected)
    found = part.read(range(len(part)))
    for i, encoded in enumerate(found):
      photo = expected.pop(part.path(i))
      assert encoded == photo.encoded
      assert part.labels[LABELS[name]][i] == photo.label
    assert not expected


def move(root, *pairs):
  for old, new in pairs:
    (root / new).parent.mkdir(parents=True, exist_ok=True)
    shutil.move(root / old, root / new)


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
  move(tmp_path / "source", *moves)
  assert run(name, tmp_path, "--allow_partial") == 0
  check(name, tmp_path, photos)


def test_archives_and_extracted_folders_mix(tmp_path):
  photos = official.write_cars_devkit(tmp_path / "source")
  official.write_cars_devkit(tmp_path / "other", extracted=True)
  (tmp_path / "source" / "cars_train.tgz").unlink()
  (tmp_path / "source" / "car_devkit.tgz").unlink()
  move(tmp_path, ("other/cars_train", "source/cars_train"), ("other/devkit", "source/devkit"))
  assert run("cars196", tmp_path, "--allow_partial") == 0
  check("cars196", tmp_path, photos)


@pytest.mark.parametrize("name", ["cub200_2011", "stanford_online_products"])
def test_the_extracted_folder_itself(tmp_path, name):
  photos = official.WRITERS[name](tmp_path / "extracted", extracted=True)
  folder = {"cub200_2011": "CUB_200_2011"}.get(name, "Stanford_Online_Products")
  move(tmp_path, (f"extracted/{folder}", "source"))
  assert run(name, tmp_path, "--allow_partial") == 0
  check(name, tmp_path, photos)


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


@pytest.mark.parametrize("name", LABELS)
def test_published_counts(tmp_path, capsys, name):
  photos = official.WRITERS[name](tmp_path / "source")
  assert run(name, tmp_path) == 2
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


def test_missing_images_are_named_and_partial_data_says_so(tmp_path, capsys):
  photos = official.write_cub(tmp_path / "source", extracted=True)
  gone = [photos[0], photos[20]]
  for photo in gone:
    (tmp_path / "source" / "CUB_200_2011" / "images" / photo.path).unlink()
  (tmp_path / "source" / "CUB_200_2011" / "images" / "mine.jpg").write_bytes(b"mine")
  assert run("cub200_2011", tmp_path) == 2
  error = capsys.readouterr().err
  assert "2 of the 24 images that the annotations name are missing" in error
  assert f"images/{gone[0].path}, images/{gone[1].path}" in error
  assert run("cub200_2011", tmp_path, "--allow_partial") == 0
  error = capsys.readouterr().err
  assert "1 images that the annotations do not name; they are left out: images/mine.jpg" in error
  check("cub200_2011", tmp_path, [photo for photo in photos if photo not in gone])
  info = (tmp_path / "tfds" / "cub200_2011" / "1.0.0" / "dataset_info.json").read_text()
  assert "PARTIAL: results on it do not compare with published ones" in info


def test_a_folder_extracted_twice_is_ambiguous(tmp_path, capsys):
  official.write_cub(tmp_path / "source", extracted=True)
  folder = tmp_path / "source" / "CUB_200_2011"
  shutil.copytree(folder, tmp_path / "copy")
  (tmp_path / "copy" / "images.txt").unlink()
  move(tmp_path, ("copy", "source/CUB_200_2011/CUB_200_2011"))
  assert run("cub200_2011", tmp_path, "--allow_partial") == 2
  assert "more than once" in capsys.readouterr().err


def test_partial_data_without_a_split(tmp_path):
  official.write_sop(tmp_path / "sop" / "source", extracted=True)
  shutil.rmtree(tmp_path / "sop" / "source" / "Stanford_Online_Products" / "bicycle_final")
  folder = tmp_path / "sop" / "source" / "Stanford_Online_Products"
  for path in folder.glob("*_final/*"):
    if int(path.name.split("_")[0]) > 110000011318:
      path.unlink()
  assert run("stanford_online_products", tmp_path / "sop", "--allow_partial") == 0
  assert (
    len(data.load("stanford_online_products", "train", data_dir=tmp_path / "sop" / "tfds")) == 6
  )
  with pytest.raises(ValueError, match="was prepared without the records of the split 'test'"):
    data.load("stanford_online_products", "test", data_dir=tmp_path / "sop" / "tfds")
  photos = official.write_cub(tmp_path / "cub" / "source", extracted=True)
  for photo in photos:
    if photo.split == "test":
      (tmp_path / "cub/source/CUB_200_2011/images" / photo.path).unlink()
  assert run("cub200_2011", tmp_path / "cub", "--allow_partial") == 0
  with pytest.raises(ValueError, match="was prepared without the records of the split 'test'"):
    data.load("cub200_2011", "test", data_dir=tmp_path / "cub" / "tfds")


def test_files_that_cannot_be_opened_are_named(tmp_path, monkeypatch, capsys):
  official.write_inshop(tmp_path / "source")

  def refuse(path, *_, **__):
    raise PermissionError(13, "Permission denied", str(path))

  monkeypatch.setattr(inshop.Path, "open", refuse)
  assert run("inshop", tmp_path) == 2
  assert "error: [Errno 13] Permission denied: " in capsys.readouterr().err
  monkeypatch.undo()
  assert prepare.main(["inshop", f"--source={tmp_path / 'source' / 'img.zip'}"]) == 2
  assert "img.zip is no directory; give the one with the archives" in capsys.readouterr().err


def replace(path, old, new):
  path.write_bytes(path.read_bytes().replace(old, new))


def test_files_that_are_not_those_of_the_data_set(tmp_path, capsys):
  source = tmp_path / "source"

  def refused(name, *texts):
    assert run(name, tmp_path, "--allow_partial") == 2
    error = capsys.readouterr().err
    assert error.count("error:") == 1 and "Traceback" not in error
    for text in texts:
      assert text in error, error
    assert not (tmp_path / "tfds").exists()

  source.mkdir()
  refused("cars196", "car_ims.tgz (MISSING), cars_annos.mat (MISSING)", "There are: no files")
  refused("inshop", "img.zip (MISSING), list_eval_partition.txt (MISSING)")
  official.write_cars(source)
  (source / "cars_annos.mat").rename(source / "annos.mat")
  refused("cars196", "car_ims.tgz (found), cars_annos.mat (MISSING)", "There are: annos.mat")
  # Another data set's archive under the name.
  official.write_cub(tmp_path / "cub")
  shutil.copy(source / "car_ims.tgz", source / "CUB_200_2011.tgz")
  refused("cub200_2011", "CUB_200_2011.tgz holds no images.txt; it holds car_ims/")
  (source / "annos.mat").rename(source / "cars_annos.mat")
  shutil.copy(tmp_path / "cub" / "CUB_200_2011.tgz", source / "car_ims.tgz")
  refused("cars196", "24 of the 24 images", "it holds CUB_200_2011/", "archive of another data set")
  official.write_sop(source)
  shutil.copy(source / "Stanford_Online_Products.zip", source / "car_ims.tgz")
  refused("cars196", "car_ims.tgz is a zip archive, not tar")
  # Wrong annotations.
  official.write_cars(source)
  (source / "cars_annos.mat").write_bytes(b"<html>")
  refused("cars196", "cars_annos.mat is no MATLAB file")
  devkit = tmp_path / "devkit"
  official.write_cars_devkit(devkit)
  shutil.copy(devkit / "cars_test_annos_withlabels.mat", source / "cars_annos.mat")
  refused("cars196", "cars_annos.mat has no variable 'class_names'")
  official.write_inshop(source)
  replace(source / "list_eval_partition.txt", b"32\nimage", b"33\nimage")
  refused("inshop", "says that it lists 33 images and lists 32")
  replace(source / "list_eval_partition.txt", b"33\nimage_name", b"32\nname")
  refused("inshop", "begins with ['32', 'name item_id evaluation_status']")
  official.write_inshop(source)
  replace(source / "list_eval_partition.txt", b"id_00000001 train", b"id_00000008 train")
  refused("inshop", "items in training and in test: id_00000008")
  official.write_inshop(source)
  replace(
    source / "list_eval_partition.txt", b"img/MEN/Denim/id_00000002", b"img/../../id_00000002"
  )
  refused("inshop", "'img/../../id_00000002/01_1_front.jpg'", "leads out of its folder")


@pytest.mark.parametrize(
  "file, line, message",
  [
    ("images.txt", "x 001.Bird/a.jpg", "has the line 'x 001.Bird/a.jpg'"),
    ("images.txt", "1 a.jpg", "each number comes once"),
    ("images.txt", "999 a.jpg", "has no label for 1 images: a.jpg"),
    ("image_class_labels.txt", "1 201", "each number comes once"),
    ("classes.txt", "205 Bird", "does not number its classes 1, 2, 3..."),
  ],
)
def test_wrong_lists_of_cub(tmp_path, capsys, file, line, message):
  official.write_cub(tmp_path / "source", extracted=True)
  with (tmp_path / "source" / "CUB_200_2011" / file).open("a") as text:
    text.write(line + "\n")
  assert run("cub200_2011", tmp_path, "--allow_partial") == 2
  error = capsys.readouterr().err
  assert message in error and "CUB_200_2011" in error


def test_wrong_lists_of_sop(tmp_path, capsys):
  official.write_sop(tmp_path / "source", extracted=True)
  path = tmp_path / "source" / "Stanford_Online_Products" / "Ebay_test.txt"
  content = path.read_text()
  for changed, message in [
    (content.replace("class_id", "class", 1), "where 'image_id class_id super_class_id path'"),
    (content + "25 11319 bicycle\n", "has the line '25 11319 bicycle'"),
    (content + "25 99999 1 x.JPG\n", "class_id is in 1..22634"),
    (content + content.splitlines()[-1], "names 1 images more than once: bicycle_final/"),
    ("\xff", "no UTF-8"),
  ]:
    path.write_text(changed, encoding="latin-1")
    assert run("stanford_online_products", tmp_path, "--allow_partial") == 2
    error = capsys.readouterr().err
    assert message in error and ("Ebay_test.txt" in error or "more than once" in error)


def test_a_finished_data_set_is_said_to_be_there(tmp_path, capsys):
  root, _ = official.prepare("inshop", tmp_path)
  capsys.readouterr()
  shutil.rmtree(tmp_path / "source")
  assert run("inshop", tmp_path) == 0
  captured = capsys.readouterr()
  assert captured.out.strip() == str(root / "inshop" / "1.0.0")
  assert "already prepared; --overwrite makes it anew" in captured.err
  assert run("inshop", tmp_path, "--overwrite") == 2  # Its files are gone; the old one stays.
  assert len(data.load("inshop", "train", data_dir=root)) == 16


def test_image_folder(tmp_path, capsys):
  for label in range(4):
    for i in range(3):
      file = {f"class {label}/{i}.jpg": official.jpeg(3 * label + i)}
      official.unpack(tmp_path / "source", file)
  assert run("image_folder", tmp_path, "--name=mine", "--test_share=0.25", "--seed=1") == 0
  train = data.load("image_folder/mine", "train", data_dir=tmp_path / "tfds")
  assert len(train) == 9 and train.default_label == "label"
  assert train.read([0]) == [(tmp_path / "source" / train.path(0)).read_bytes()]
  assert len(data.load("image_folder/mine", "train+test", data_dir=tmp_path / "tfds")) == 12
  capsys.readouterr()
  assert run("image_folder", tmp_path, "--name=mine", "--test_share=0.25", "--seed=1") == 0
  assert "already prepared; --overwrite" in capsys.readouterr().err
  official.unpack(tmp_path / "source", {"class 0/new.jpg": official.jpeg(99)})
  assert run("image_folder", tmp_path, "--name=mine", "--test_share=0.25", "--seed=1") == 0
  assert "already prepared, from OTHER photos or options" in capsys.readouterr().err
  assert run("image_folder", tmp_path, "--name=../x") == 2
  assert "name must be letters" in capsys.readouterr().err


def test_image_folder_of_smaller_pictures(tmp_path, capsys):
  large = cv2.imencode(".jpg", np.full((90, 120, 3), 99, np.uint8))[1].tobytes()
  small = cv2.imencode(".png", np.full((30, 40, 3), 9, np.uint8))[1].tobytes()
  for place, encoded in enumerate([large, small, large[:-50], small]):
    path = tmp_path / "source" / f"class {place // 2}" / f"{place}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded)
  options = ["--name=own", "--max_side=40", "--max_bad=0.25"]
  assert run("image_folder", tmp_path, *options) == 0
  assert "class 1/2.jpg: a JPEG that is cut short" in capsys.readouterr().err
  found = {}
  for split in ("train", "test"):
    part = data.load("tfds:image_folder/own", split, data_dir=tmp_path / "tfds")
    found |= {part.path(i): encoded for i, encoded in enumerate(part.read(range(len(part))))}
  assert set(found) == {"class 0/0.jpg", "class 0/1.jpg", "class 1/3.jpg"}
  assert found["class 0/1.jpg"] == found["class 1/3.jpg"] == small
  assert decode.probe(found["class 0/0.jpg"])[:3] == ("JPEG", 30, 40)
  for given, said in ((options, "already prepared; "), (options[:1], "OTHER photos or options")):
    assert run("image_folder", tmp_path, *given) == 0
    assert said in capsys.readouterr().err
  assert run("image_folder", tmp_path, "--name=other", "--max_side=0") == 2
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


SLOW_RUN = """
import os, pathlib, signal, sys, time
from jaxdml.data import prepare, verify
from jaxdml.data.builders import build, shards
shards.MIN_ITEMS, build._AHEAD, build._THREADS = 4, 1, 1
kill_after, wait_for, *argv = sys.argv[1:]
original, seen = verify.check_image, []
def check_image(encoded):
  seen.append(1)
  for _ in range(1200):
    if not wait_for or pathlib.Path(wait_for).exists():
      break
    time.sleep(0.05)
  if len(seen) == int(kill_after):
    os.kill(os.getpid(), signal.SIGKILL)
  original(encoded)
verify.check_image = check_image
status = prepare.main(argv)
print("images", len(seen))
sys.exit(status)
"""


def start(root, *, kill_after=0, wait_for="", name="cub200_2011"):
  argv = [name, f"--source={root / 'source'}", f"--data_dir={root / 'tfds'}", "--allow_partial"]
  return subprocess.Popen(
    [sys.executable, "-W", "error", "-c", SLOW_RUN, str(kill_after), str(wait_for), *argv],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
  )


def contents(directory):
  return {p.name: p.read_bytes() for p in directory.iterdir() if ".json." not in p.name}


@pytest.mark.slow
def test_kill_9_then_the_same_command_keeps_what_is_finished(tmp_path):
  official.write_cub(tmp_path / "source")
  whole = tmp_path / "whole"
  shutil.copytree(tmp_path / "source", whole / "source")
  straight, killed = start(whole), start(tmp_path, kill_after=17)
  for process, status in ((straight, 0), (killed, -9)):
    _, error = process.communicate(timeout=60)
    assert process.returncode == status, error
  with pytest.raises(data.DatasetNotPreparedError):
    data.load("cub200_2011", "train", data_dir=tmp_path / "tfds")
  work = tmp_path / "tfds" / "cub200_2011" / ".incomplete-1.0.0" / "data"
  kept = {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in work.glob("[!.]*record-*-of-*")}
  assert len(kept) >= 2
  again = start(tmp_path)
  out, error = again.communicate(timeout=60)
  assert again.returncode == 0, error
  directory = tmp_path / "tfds" / "cub200_2011" / "1.0.0"
  now = {
    name: ((directory / name).stat().st_ino, (directory / name).stat().st_mtime_ns) for name in kept
  }
  assert now == kept
  assert int(out.split()[-1]) == 24 - 4 * len(kept)  # Finished images are not decoded again.
  assert contents(directory) == contents(whole / "tfds" / "cub200_2011" / "1.0.0")


@pytest.mark.slow
def test_two_processes_at_once(tmp_path):
  photos = official.write_cub(tmp_path / "source")
  first = start(tmp_path, wait_for=tmp_path / "go")
  deadline = time.monotonic() + 60
  while not (tmp_path / "tfds" / "cub200_2011" / ".incomplete-1.0.0").exists():
    assert time.monotonic() < deadline and first.poll() is None
    time.sleep(0.02)
  second = start(tmp_path)
  said = next(line for line in second.stderr if "Another process is writing" in line)
  (tmp_path / "go").touch()
  results = [process.communicate(timeout=60) for process in (first, second)]
  assert [first.returncode, second.returncode] == [0, 0], results
  assert [int(out.split()[-1]) for out, _ in results] == [24, 0]
  assert str(tmp_path) in said
  check("cub200_2011", tmp_path, photos)
