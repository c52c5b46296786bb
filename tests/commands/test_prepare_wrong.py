"""Archives and folders that are not what `prepare` takes: one message that names the file."""

import shutil

import pytest

from jaxdml import commands, data
from jaxdml.prepare.sets import inshop
from tests.data import official


def test_missing_images_are_named_and_partial_data_says_so(tmp_path, capsys):
  photos = official.write_cub(tmp_path / "source", extracted=True)
  gone = [photos[0], photos[20]]
  for photo in gone:
    (tmp_path / "source" / "CUB_200_2011" / "images" / photo.path).unlink()
  (tmp_path / "source" / "CUB_200_2011" / "images" / "mine.jpg").write_bytes(b"mine")
  assert official.run("cub200_2011", tmp_path) == 2
  error = capsys.readouterr().err
  assert "2 of the 24 images that the annotations name are missing" in error
  assert f"images/{gone[0].path}, images/{gone[1].path}" in error
  assert official.run("cub200_2011", tmp_path, "--allow_partial") == 0
  error = capsys.readouterr().err
  assert "1 images that the annotations do not name; they are left out: images/mine.jpg" in error
  official.check("cub200_2011", tmp_path, [photo for photo in photos if photo not in gone])
  info = (tmp_path / "tfds" / "cub200_2011" / "1.0.0" / "dataset_info.json").read_text()
  assert "PARTIAL: results on it do not compare with published ones" in info


def test_a_folder_extracted_twice_is_ambiguous(tmp_path, capsys):
  official.write_cub(tmp_path / "source", extracted=True)
  folder = tmp_path / "source" / "CUB_200_2011"
  shutil.copytree(folder, tmp_path / "copy")
  (tmp_path / "copy" / "images.txt").unlink()
  official.move(tmp_path, ("copy", "source/CUB_200_2011/CUB_200_2011"))
  assert official.run("cub200_2011", tmp_path, "--allow_partial") == 2
  assert "more than once" in capsys.readouterr().err


def test_partial_data_without_a_split(tmp_path):
  official.write_sop(tmp_path / "sop" / "source", extracted=True)
  shutil.rmtree(tmp_path / "sop" / "source" / "Stanford_Online_Products" / "bicycle_final")
  folder = tmp_path / "sop" / "source" / "Stanford_Online_Products"
  for path in folder.glob("*_final/*"):
    if int(path.name.split("_")[0]) > 110000011318:
      path.unlink()
  assert official.run("stanford_online_products", tmp_path / "sop", "--allow_partial") == 0
  assert (
    len(data.load("stanford_online_products", "train", data_dir=tmp_path / "sop" / "tfds")) == 6
  )
  with pytest.raises(ValueError, match="was prepared without the records of the split 'test'"):
    data.load("stanford_online_products", "test", data_dir=tmp_path / "sop" / "tfds")
  photos = official.write_cub(tmp_path / "cub" / "source", extracted=True)
  for photo in photos:
    if photo.split == "test":
      (tmp_path / "cub/source/CUB_200_2011/images" / photo.path).unlink()
  assert official.run("cub200_2011", tmp_path / "cub", "--allow_partial") == 0
  with pytest.raises(ValueError, match="was prepared without the records of the split 'test'"):
    data.load("cub200_2011", "test", data_dir=tmp_path / "cub" / "tfds")


def test_files_that_cannot_be_opened_are_named(tmp_path, monkeypatch, capsys):
  official.write_inshop(tmp_path / "source")

  def refuse(path, *_, **__):
    raise PermissionError(13, "Permission denied", str(path))

  monkeypatch.setattr(inshop.Path, "open", refuse)
  assert official.run("inshop", tmp_path) == 2
  assert "source: Permission denied: " in capsys.readouterr().err
  monkeypatch.undo()
  assert commands.main(["prepare", "inshop", f"--source={tmp_path / 'source' / 'img.zip'}"]) == 2
  assert "img.zip is no directory; give the one with the archives" in capsys.readouterr().err


def replace(path, old, new):
  path.write_bytes(path.read_bytes().replace(old, new))


def test_files_that_are_not_those_of_the_data_set(tmp_path, capsys):
  source = tmp_path / "source"

  def refused(name, *texts):
    assert official.run(name, tmp_path, "--allow_partial") == 2
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
  assert official.run("cub200_2011", tmp_path, "--allow_partial") == 2
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
    assert official.run("stanford_online_products", tmp_path, "--allow_partial") == 2
    error = capsys.readouterr().err
    assert message in error and ("Ebay_test.txt" in error or "more than once" in error)


def test_sizes_are_checked_against_an_option(tmp_path, capsys):
  official.write_cub(tmp_path / "source")
  assert official.run("cub200_2011", tmp_path, "--max_file_bytes=100") == 2
  error = capsys.readouterr().err
  assert "more than the 100 allowed; --max_file_bytes allows more" in error
  assert official.run("cub200_2011", tmp_path, "--max_file_bytes=100000") in (0, 2)
  assert "--max_file_bytes" not in capsys.readouterr().err
