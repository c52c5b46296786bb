"""People's own photos: layouts, splits, and one message that names the file for what is wrong."""

import json
import os
import unicodedata

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from jaxdml import data
from jaxdml.data import picture_files
from jaxdml.prepare import writing
from jaxdml.prepare.image_folder import ImageFolderError, divide, source
from jaxdml.prepare.manifest import ManifestError


def picture(text):
  """A PNG whose pixels depend on the text."""
  value = sum(text.encode()) % 256
  return cv2.imencode(".png", np.full((4, 5, 3), value, np.uint8))[1].tobytes()


def fill(root, *paths):
  for path in paths:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(picture(path))
  return root


def found(made):
  """path -> (split, label), by name."""
  names = made.features["label"].names
  return {item.path: (item.split, names[item.values["label"]]) for item in made.items}


def error(root, manifest=None, kind=ImageFolderError, **kwargs):
  if manifest is not None:
    path = root / "list.csv"
    path.write_text(manifest)
    kwargs["manifest"] = path
  with pytest.raises(kind) as raised:
    source(root, "mine", **kwargs)
  return str(raised.value)


def test_class_folders_at_any_depth_with_any_image_suffix(tmp_path, capsys):
  fill(
    tmp_path,
    "bee/2019/a.JPG",
    "ant/a.jpeg",
    "ant/b.png",
    "bee/b.webp",
    "bee/c.Tif",
    # What systems leave behind is no image and no class.
    "ant/.hidden.jpg",
    "ant/Thumbs.db",
    ".trash/a.jpg",
    "__MACOSX/ant/a.jpg",
    "ant/@eaDir/a.jpg",
  )
  made = source(tmp_path, "mine")
  assert [item.path for item in made.items] == [
    "ant/a.jpeg",
    "ant/b.png",
    "bee/2019/a.JPG",
    "bee/b.webp",
    "bee/c.Tif",
  ]
  assert made.name == "image_folder/mine" and made.supervised == "label"
  assert all(found(made)[path][1] == path[:3] for path in found(made))
  assert {split for split, _ in found(made).values()} == {"train", "test"}
  assert made.description == (
    "5 photos of 2 classes: train 3 of 1 classes, test 2 of 1 classes; divided by class: 0.5 of "
    "the classes test, chosen by the seed 0."
  )
  assert capsys.readouterr().err == f"image_folder/mine: {made.description}\n"
  expected = [picture(item.path) for item in made.items]
  assert list(made.read(0)) == expected and list(made.read(3)) == expected[3:]


def test_the_division_is_by_class_and_hardly_moves_when_a_class_comes(tmp_path):
  names = [f"class {i}" for i in range(40)]
  test = divide(names, 0.25, seed=3)
  assert len(test) == 10
  assert divide(reversed(names), 0.25, seed=3) == test != divide(names, 0.25, seed=4)
  assert len(divide([*names, "new"], 0.25, seed=3) ^ test) <= 2
  assert len(divide(names, 0.001, 0)) == 1 and len(divide(names, 0.999, 0)) == 39

  fill(tmp_path, *(f"{name}/{i}.png" for name in names[:6] for i in range(2)))
  sides = found(source(tmp_path, "mine", test_share=1 / 3, seed=1))
  of_class = {label: {s for s, other in sides.values() if other == label} for label in names[:6]}
  assert sorted(map(sorted, of_class.values())) == [["test"]] * 2 + [["train"]] * 4
  assert {c for c in of_class if of_class[c] == {"test"}} == divide(names[:6], 1 / 3, 1)


def test_folders_that_are_splits(tmp_path, capsys):
  fill(tmp_path, "Train/ant/a.jpg", "Train/ant/b.jpg", "test/bee/a.jpg", "test/bee/b.jpg")
  made = source(tmp_path, "mine")
  assert found(made) == {
    "Train/ant/a.jpg": ("train", "ant"),
    "Train/ant/b.jpg": ("train", "ant"),
    "test/bee/a.jpg": ("test", "bee"),
    "test/bee/b.jpg": ("test", "bee"),
  }
  assert made.description == (
    "4 photos of 2 classes: train 2 of 1 classes, test 2 of 1 classes; divided as the folders "
    "have it."
  )
  fill(tmp_path, "test/ant/c.jpg", "loose.jpg", "test/loose.jpg")
  made = source(tmp_path, "mine")
  assert "Test classes that are training classes too: 1 of 2 ('ant')" in made.description
  said = capsys.readouterr().err
  assert "NOT on unseen classes" in said
  assert "Images in no class folder, left out: 2 ('loose.jpg', 'test/loose.jpg')" in said


def test_a_class_may_be_called_train(tmp_path):
  fill(tmp_path, "train/a.jpg", "plane/a.jpg", "train/b.jpg", "plane/b.jpg")
  assert {label for _, label in found(source(tmp_path, "mine")).values()} == {"train", "plane"}


def test_query_and_gallery(tmp_path, capsys):
  fill(tmp_path, "train/a/1.jpg", "train/a/2.jpg", "query/b/1.jpg", "gallery/b/2.jpg")
  assert {split for split, _ in found(source(tmp_path, "mine")).values()} == {
    "train",
    "query",
    "gallery",
  }
  fill(tmp_path, "query/c/1.jpg")
  source(tmp_path, "mine")
  assert "for which nothing right can be found: 1 ('c')" in capsys.readouterr().err
  fill(tmp_path, "test/d/1.jpg")
  assert "the splits are gallery, query, test, train; query and gallery" in error(tmp_path)


def test_names_in_any_script_and_either_normal_form(tmp_path, capsys):
  composed, decomposed = (unicodedata.normalize(f, "Bärenhöhle") for f in ("NFC", "NFD"))
  paths = [f"{composed}/ä.jpg", f"{decomposed}/ä.jpg", "猫/写真 1.jpg", "猫/2.jpg", "Żółw/a.jpg"]
  made = source(fill(tmp_path, *paths), "mine")
  assert made.features["label"].names == [composed, "Żółw", "猫"]  # by code point
  assert {path: label for path, (_, label) in found(made).items()} == {
    path: unicodedata.normalize("NFC", path.split("/")[0]) for path in paths
  }
  assert "Folders of the same name as another, joined: 2" in capsys.readouterr().err


def test_what_is_left_out_is_said(tmp_path, capsys):
  fill(tmp_path, "ant/a.jpg", "ant/b.jpg", "bee/a.jpg", "loose.jpg", "ant/notes.txt", "ant/x.PDF")
  (tmp_path / "empty").mkdir()
  os.mkfifo(tmp_path / "ant" / "pipe")  # Reading it would wait for ever.
  made = source(tmp_path, "mine")
  assert len(made.items) == 3
  said = capsys.readouterr().err
  for note in (
    "Images in no class folder, left out: 1 ('loose.jpg').",
    "Files that are not images by their name, left out: 3 (.pdf 1, .txt 1, no suffix 1).",
    "Class folders without an image, left out: 1 ('empty').",
    "Classes with one image, which is kept but cannot give a positive pair: 1 ('bee').",
  ):
    assert f"image_folder/mine: {note}" in said and note in made.description


@pytest.mark.parametrize(
  ("paths", "expected"),
  [
    ((), "has no image; expected are folders named by class"),
    (("a.jpg", "b.jpg"), r"images that are in no class folder \('a.jpg', 'b.jpg'\)"),
    (("train/a.jpg", "test/b.jpg"), "images that are in no class folder .'test/b.jpg', 'train/a"),
    (("ant/notes.txt",), "has no image"),
    (("photos/ant/a.jpg", "photos/bee/b.jpg"), "one class, .'photos'., .*sub-folders"),
    (("train/a/1.jpg", "val/b/1.jpg"), "val: unknown split.*eval.validation_fraction"),
    (("train/a/1.jpg", "query/b/1.jpg"), "query and gallery come together"),
    (("a\nb/1.jpg", "c/1.jpg"), "name of this class has a control character"),
    ((" /1.jpg", "c/1.jpg"), "name of this class is empty"),
  ],
)
def test_folders_that_cannot_be_used(tmp_path, paths, expected):
  with pytest.raises(ImageFolderError, match=expected):
    source(fill(tmp_path, *paths), "mine")


def test_names_that_are_not_utf8(tmp_path):
  fill(tmp_path, "ant/a.jpg", "bee/a.jpg")
  try:
    os.rename(tmp_path / "ant" / "a.jpg", os.fsencode(tmp_path / "ant") + b"/\xe9.jpg")
  except OSError:
    pytest.skip("this file system takes UTF-8 names only")
  message = error(tmp_path)
  assert str(tmp_path / "ant") in message and r"b'\xe9.jpg'" in message and "rename" in message


def test_arguments_that_cannot_be_used(tmp_path):
  fill(tmp_path, "ant/a.jpg", "bee/a.jpg")
  for name in ("", "1.0.0", "a/b", "..", "a b"):
    with pytest.raises(ImageFolderError, match="name must be"):
      source(tmp_path, name)
  for share in (0, 1, -1, float("nan")):
    assert "test_share must be between 0 and 1" in error(tmp_path, test_share=share)
  assert "does not exist" in error(tmp_path / "nowhere")
  assert "is a file; extract archives first" in error(tmp_path / "ant" / "a.jpg")


def test_links_that_lead_nowhere_are_left_out_and_said(tmp_path, capsys):
  root = fill(tmp_path, "ant/a.jpg", "bee/a.jpg", "bee/folder.jpg/b.jpg", "bee/._a.jpg")
  (root / "bee" / "gone.jpg").symlink_to("nowhere.jpg")
  os.mkfifo(root / "ant" / "pipe.jpg")
  assert found(source(root, "mine")).keys() == {"ant/a.jpg", "bee/a.jpg", "bee/folder.jpg/b.jpg"}
  told = capsys.readouterr().err
  assert "lead nowhere, and pipes, left out: 2 ('ant/pipe.jpg', 'bee/gone.jpg')" in told
  named = "path,label\nbee/gone.jpg,bee\nant/a.jpg,ant\n"
  assert "'bee/gone.jpg' does not exist" in error(root, named, ManifestError)


def test_no_name_steers_the_terminal(tmp_path, capsys):
  root = fill(tmp_path, "ant/a\x1b[31m.jpg", "bee/a.jpg", "bee/b.\x1b[2J", "loose\x9b.jpg")
  source(root, "mine")
  told = capsys.readouterr().err
  assert "[U+001B][2j" in told and all(c.isprintable() or c == "\n" for c in told)
  (root / "bee" / "a.jpg").unlink()
  (root / "bee" / "x\x1b[0m").symlink_to(root)
  assert "x[U+001B][0m is a link to a folder" in error(root)


def test_nothing_outside_the_folder_is_read(tmp_path):
  outside = fill(tmp_path / "outside", "secret.jpg")
  root = fill(tmp_path / "root", "ant/a.jpg", "bee/a.jpg")
  (root / "ant" / "link.jpg").symlink_to(outside / "secret.jpg")
  message = error(root)
  assert "'ant/link.jpg' is a link that leaves the folder" in message and "secret.jpg" in message
  (root / "ant" / "link.jpg").unlink()
  for target in (outside, root):  # The second would never end.
    (root / "bee" / "linked").symlink_to(target)
    assert f"{root}/bee/linked is a link to a folder" in error(root)
    (root / "bee" / "linked").unlink()
  # A link that stays inside, and a root that is a link itself, are fine.
  (root / "bee" / "same.jpg").symlink_to("a.jpg")
  (tmp_path / "short").symlink_to(root)
  assert found(source(tmp_path / "short", "mine")).keys() == {
    "ant/a.jpg",
    "bee/a.jpg",
    "bee/same.jpg",
  }


def test_manifest_with_all_columns(tmp_path, capsys):
  fill(tmp_path, "x/1.jpg", "y/1.jpg", "2", "3.jpg")
  rows = [
    {"path": "x/1.jpg", "label": 10, "coarse": "b", "fine": "10 i", "split": "train"},
    {"path": "./y//1.jpg", "label": 9, "coarse": "a", "fine": "9 i", "split": "Test", "who": "me"},
    {"path": "3.jpg", "label": 10, "coarse": "b", "fine": "10 ii", "split": "train"},
    {"path": "2", "label": 9, "coarse": "a", "fine": "9 i", "split": "test"},
  ]
  path = tmp_path / "list.jsonl"
  path.write_text("\n".join(map(json.dumps, rows)))
  made = source(tmp_path, "mine", manifest=path)
  assert {c: made.features[c].names for c in ("label", "coarse", "fine")} == {
    "label": ["10", "9"],
    "coarse": ["a", "b"],
    "fine": ["10 i", "10 ii", "9 i"],
  }
  assert [tuple(item) for item in made.items] == [
    ("train", "x/1.jpg", {"label": 0, "coarse": 1, "fine": 0}),
    ("test", "y/1.jpg", {"label": 1, "coarse": 0, "fine": 2}),
    ("train", "3.jpg", {"label": 0, "coarse": 1, "fine": 1}),
    ("test", "2", {"label": 1, "coarse": 0, "fine": 2}),
  ]
  assert "Columns of the manifest that are not used: 'who'." in capsys.readouterr().err
  assert list(made.read(1)) == [picture(p) for p in ("y/1.jpg", "3.jpg", "2")]


def test_a_manifest_without_splits_is_divided_by_class(tmp_path):
  fill(tmp_path, *(f"{i}.jpg" for i in range(8)))
  path = tmp_path / "list.csv"
  path.write_text("path,label\n" + "".join(f"{i}.jpg,class {i % 4}\n" for i in range(8)))
  sides = found(source(tmp_path, "mine", manifest=path))
  assert sorted(split for split, _ in set(sides.values())) == ["test", "test", "train", "train"]


def test_a_path_may_be_composed_otherwise_than_on_the_disk(tmp_path):
  composed, decomposed = (unicodedata.normalize(f, "é.jpg") for f in ("NFC", "NFD"))
  fill(tmp_path, decomposed, "b.jpg")
  path = tmp_path / "list.csv"
  path.write_text(f"path,label\n{composed},ant\nb.jpg,bee\n")
  assert decomposed in found(source(tmp_path, "mine", manifest=path))


def test_absolute_paths_in_the_folder_are_those_below_it(tmp_path):
  root = fill(tmp_path / "root", "ant/a.jpg", "bee/b.jpg")
  (tmp_path / "short").symlink_to(root)
  path = tmp_path / "list.csv"
  path.write_text("path,label\nant/a.jpg,ant\nbee/b.jpg,bee\n")
  expected = source(root, "mine", manifest=path)
  for other in (f"{root}/", f"{tmp_path}/short/", f"{root}/bee/../", f"{tmp_path}/short/ant/../"):
    path.write_text(f"path,label\n{other}ant/a.jpg,ant\n{root}/bee/b.jpg,bee\n")
    for folder in (root, tmp_path / "short"):
      made = source(folder, "mine", manifest=path)
      assert found(made) == found(expected) and made.fingerprint == expected.fingerprint


@pytest.mark.parametrize(
  ("line", "expected"),
  [
    ("a.jpg,ant,x", "'a.jpg' is on line 2 already"),
    ("./ant//../a.jpg,ant,x", "may leave the folder: paths are relative to .*, without '..'"),
    ("../root/a.jpg,ant,x", "may leave the folder: paths are relative"),
    ("/etc/passwd,ant,x", "'/etc/passwd' is not in the folder .*/root: give paths in it, relative"),
    ("{root}2/a.jpg,ant,x", "/root2/a.jpg' is not in the folder"),
    ("{root}/../outside/secret.jpg,ant,x", "secret.jpg' is not in the folder"),
    ("{root}/linked/secret.jpg,ant,x", "is a link that leaves the folder"),
    ("{root}/c.jpg,ant,x", "'c.jpg' does not exist in "),
    ("{root}/./a.jpg,ant,x", "'a.jpg' is on line 2 already"),
    ("C:\\photos\\a.jpg,ant,x", "is a path of Windows: give it relative to .*, with '/'"),
    ("link.jpg,ant,x", "is a link that leaves the folder"),
    ("linked/secret.jpg,ant,x", "is a link that leaves the folder"),
    ("c.jpg,ant,x", "'c.jpg' does not exist in "),
    ("a.jpg/b.jpg,ant,x", "does not exist in "),
    ("x\\b.jpg,ant,x", "does not exist in .*use '/'"),
    ("x,ant,x", "'x' is not a file"),
    (f"{'n' * 300},ant,x", "cannot be read: File name too long"),
    ("b.jpg,ant,y", "label 'ant' has the coarse label 'y' here and 'x' on line 2"),
  ],
)
def test_a_manifest_line_that_cannot_be_used(tmp_path, line, expected):
  fill(tmp_path / "outside", "secret.jpg")
  root = fill(tmp_path / "root", "a.jpg", "b.jpg", "x/1.jpg")
  (root / "link.jpg").symlink_to("../outside/secret.jpg")
  (root / "linked").symlink_to("../outside")
  path = tmp_path / "list.csv"
  path.write_text(f"path,label,coarse\na.jpg,ant,x\n\n{line.replace('{root}', str(root))}\n")
  with pytest.raises(ManifestError, match=f"list.csv: line 4: .*{expected}"):
    source(root, "mine", manifest=path)


def test_a_fine_label_of_two_classes_is_said(tmp_path, capsys):
  fill(tmp_path, "a.jpg", "b.jpg")
  path = tmp_path / "list.csv"
  path.write_text("path,label,fine\na.jpg,ant,left\nb.jpg,bee,left\n")
  source(tmp_path, "mine", manifest=path)
  assert "Fine labels under more than one label" in capsys.readouterr().err


def test_the_fingerprint_changes_with_what_goes_in(tmp_path):
  fill(tmp_path, "ant/a.jpg", "bee/a.jpg", "cat/a.jpg")
  prints = [source(tmp_path, "mine").fingerprint]
  assert source(tmp_path, "mine").fingerprint == prints[0]
  prints.append(source(tmp_path, "mine", seed=1, test_share=0.3).fingerprint)
  (tmp_path / "ant" / "a.jpg").write_bytes(b"longer" + picture("ant/a.jpg"))
  prints.append(source(tmp_path, "mine").fingerprint)
  os.utime(tmp_path / "bee" / "a.jpg", ns=(0, 1))
  prints.append(source(tmp_path, "mine").fingerprint)
  fill(tmp_path, "ant/b.jpg")
  prints.append(source(tmp_path, "mine").fingerprint)
  os.rename(tmp_path / "cat", tmp_path / "dog")
  prints.append(source(tmp_path, "mine").fingerprint)
  assert len(set(prints)) == 6


def test_no_more_is_read_of_a_file_than_shows_that_it_is_too_large(tmp_path, monkeypatch):
  made = source(fill(tmp_path, "ant/a.jpg", "bee/a.jpg"), "mine")
  monkeypatch.setattr(picture_files, "MAX_BYTES", 10)
  assert list(made.read(0)) == [picture(path)[:11] for path in ("ant/a.jpg", "bee/a.jpg")]


def test_a_file_that_goes_while_it_is_read_is_named(tmp_path):
  made = source(fill(tmp_path, "ant/a.jpg", "bee/a.jpg"), "mine")
  (tmp_path / "bee" / "a.jpg").unlink()
  images = made.read(0)
  next(images)
  with pytest.raises(ImageFolderError, match=r"bee/a\.jpg: cannot be read .No such file"):
    next(images)


def test_it_becomes_a_data_set_with_the_bytes_unchanged(tmp_path, capsys):
  root = fill(tmp_path / "root", *(f"{c}/{i}.png" for c in ("ant", "猫", "cow") for i in range(3)))
  (root / "cow" / "1.png").write_bytes(b"not an image")
  made = source(root, "mine")
  directory = writing.write(made, tmp_path / "tfds", max_bad_images=0.2)
  assert directory == tmp_path / "tfds" / "image_folder" / "mine" / "1.0.0"
  info = tfds.builder_from_directory(os.fspath(directory)).info
  assert info.features["label"].names == ["ant", "cow", "猫"]
  assert info.description == made.description
  (skipped,) = (directory / writing.SKIPPED_FILE).read_text().splitlines()
  assert json.loads(skipped)["path"] == "cow/1.png"
  assert "cow/1.png" in capsys.readouterr().err


def test_a_split_made_of_other_photos_has_another_digest(tmp_path):
  """Of the same ones it has the same, wherever it lies and whatever is selected of it."""
  root = fill(tmp_path / "root", *(f"{c}/{i}.png" for c in ("ant", "cow") for i in range(3)))

  def train(directory):
    writing.write(source(root, "mine", test_share=0.5), tmp_path / directory)
    return data.load("image_folder/mine", "train", data_dir=tmp_path / directory)

  first = train("a")
  assert train("b").digest == first.digest == first.select([0]).digest
  test = data.load("image_folder/mine", "test", data_dir=tmp_path / "a")
  assert test.digest != first.digest
  noise = np.random.default_rng(0).integers(0, 256, (9, 9)).astype(np.uint8)
  (root / first.path(0)).write_bytes(cv2.imencode(".png", noise)[1].tobytes())
  changed = train("c")
  assert len(changed) == len(first) and changed.digest != first.digest
  assert data.load("image_folder/mine", "test", data_dir=tmp_path / "c").digest == test.digest
