import shutil

import cv2
import numpy as np

from jaxdml import commands, data
from jaxdml.data import decode
from tests.data import official


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
  told = capsys.readouterr().err
  assert "already prepared; --overwrite" in told
  # The next commands, as they can be copied.
  where = f"mine --config.data.data_dir={tmp_path / 'tfds'}"
  for config in ("show --config=finetune_photos", "train --config=finetune_photos"):
    assert f"jaxdml {config}:{where} --" in told
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
  options = ["--name=own", "--max_side=40", "--max_bad_images=0.25"]
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
  assert "--max_side: expected a whole number of at least 1, got '0'" in capsys.readouterr().err


def test_help_names_every_archive(capsys):
  assert commands.main(["prepare", "--help"]) == 0
  text = capsys.readouterr().out
  for word in (
    *("car_ims.tgz", "cars_annos.mat", "cars_test_annos_withlabels.mat", "CUB_200_2011.tgz"),
    *("Stanford_Online_Products.zip", "img.zip", "list_eval_partition.txt", "--manifest", "glyphs"),
  ):
    assert word in text
  assert max(map(len, text.splitlines())) <= 100
  for wrong in (["cars"], ["cars196"], ["cars196", "--source=.", "--max_bad_images=much"]):
    assert commands.main(["prepare", *wrong]) == 2
