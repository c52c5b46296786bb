"""Photos that are there more than once: all of them found, nothing else, and said."""

import itertools

import numpy as np
import pytest

from jaxdml import commands, data
from jaxdml.prepare import image_folder
from jaxdml.prepare import photos as photos_lib
from jaxdml.prepare.image_folder import ImageFolderError
from jaxdml.prepare.photos import Photo
from tests.data import official


def write(root, files):
  photos = []
  for path, content in files.items():
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(content)
    photos.append(Photo(path, {"label": path.split("/")[0]}, None, len(content), 0))
  return photos


def test_groups_are_those_of_comparing_every_two_files(tmp_path, monkeypatch):
  monkeypatch.setattr(photos_lib, "_TAIL", 4)
  rng = np.random.default_rng(0)
  # Of few sizes, few ends and few beginnings, so that each stage has something to tell apart.
  parts = [rng.bytes(n) for n in (3, 3, 5)]
  contents = [a + b + c for a, b, c in itertools.product(parts, parts, (b"last", b"end."))]
  chosen = rng.integers(len(contents), size=40)
  photos = write(tmp_path, {f"c/{i}": contents[n] for i, n in enumerate(chosen)})
  groups = photos_lib.copies(tmp_path, photos, "mine")
  pairs = {(a.path, b.path) for group in groups for a, b in itertools.combinations(group, 2)}
  expected = {
    (a.path, b.path)
    for a, b in itertools.combinations(photos, 2)
    if (tmp_path / a.path).read_bytes() == (tmp_path / b.path).read_bytes()
  }
  assert pairs == expected and len(expected) > 20


def test_files_of_other_sizes_or_ends_are_not_read_in_full(tmp_path, monkeypatch):
  ends = {"a/1": b"x" * 9000 + b"1", "a/2": b"x" * 9000 + b"2", "a/3": b"x"}
  photos = write(tmp_path, ends)
  tails, tail = [], photos_lib._tail
  monkeypatch.setattr(photos_lib, "_tail", lambda path: tails.append(path.name) or tail(path))
  monkeypatch.setattr(photos_lib, "_whole", lambda path: pytest.fail(f"{path} was read"))
  assert photos_lib.copies(tmp_path, photos, "mine") == []
  assert tails == ["1", "2"]


def test_empty_files_are_no_copies(tmp_path, capsys):
  write(tmp_path, {"ant/1.jpg": b"", "ant/2.jpg": b"", "bee/1.jpg": b"", "bee/2.jpg": b"x"})
  made = image_folder.source(tmp_path, "mine", drop_copies=True)
  assert len(made.items) == 4 and "opies" not in capsys.readouterr().err


FILES = {
  "ant/1.jpg": b"one",
  "ant/2.jpg": b"one",  # a copy
  "ant/3.jpg": b"two",
  "bee/1.jpg": b"three",
  "bee/2.jpg": b"four",
  "bee/3.jpg": b"five",
  "cat/1.jpg": b"five",  # of another class
  "cat/2.jpg": b"six",
  "cat/3.jpg": b"seven",
}


def test_they_are_said_and_kept(tmp_path, capsys):
  write(tmp_path, FILES)
  made = image_folder.source(tmp_path, "mine", test_share=0.34, seed=1)
  assert [item.path for item in made.items] == sorted(FILES)
  said = capsys.readouterr().err
  assert said.count("\n") == made.description.count("\n") + 1
  for line in (
    "Copies of another photo of their class, byte by byte: 1 ('ant/1.jpg = ant/2.jpg'). They teach "
    "nothing and are found too easily; --drop_copies leaves them out.",
    "Photos that are there under several labels, byte by byte: 1 ('bee/3.jpg = cat/1.jpg'). At "
    "most one of the labels is right; --drop_copies leaves them out.",
  ):
    assert f"image_folder/mine: {line}\n" in said
  split = {item.path: item.split for item in made.items}
  crossing = "training and test have a copy each: 1 ('bee/3.jpg = cat/1.jpg')"
  assert (crossing in said) == (split["bee/3.jpg"] != split["cat/1.jpg"])


@pytest.mark.parametrize("seed", range(4))
def test_a_copy_on_the_other_side_is_said(tmp_path, capsys, seed):
  write(tmp_path, FILES)
  made = image_folder.source(tmp_path, "mine", seed=seed)
  split = {item.path: item.split for item in made.items}
  crossing = split["bee/3.jpg"] != split["cat/1.jpg"]
  assert ("have a copy each" in capsys.readouterr().err) == crossing


def test_query_and_gallery_are_one_side(tmp_path, capsys):
  files = {f"{split}/{label}/1.jpg": f"{split} {label}".encode() for split in ("train", "query",
    "gallery") for label in ("ant", "bee")}  # fmt: skip
  write(tmp_path, files | {"gallery/ant/1.jpg": files["query/ant/1.jpg"]})
  image_folder.source(tmp_path, "mine")
  said = capsys.readouterr().err
  assert "Copies of another photo of their class" in said and "a copy each" not in said


def test_without_copies_nothing_is_said(tmp_path, capsys):
  write(tmp_path, {path: path.encode() for path in FILES})
  plain = image_folder.source(tmp_path, "mine")
  dropped = image_folder.source(tmp_path, "mine", drop_copies=True)
  assert "opies" not in capsys.readouterr().err
  assert plain.fingerprint == dropped.fingerprint


def test_the_first_is_kept_and_none_whose_labels_differ(tmp_path, capsys):
  write(tmp_path, FILES)
  made = image_folder.source(tmp_path, "mine", drop_copies=True)
  left = [p for p in sorted(FILES) if p not in ("ant/2.jpg", "bee/3.jpg", "cat/1.jpg")]
  assert [item.path for item in made.items] == left
  said = capsys.readouterr().err
  assert "6 photos of 3 classes" in said
  assert (
    "Copies, byte by byte, left out: 3; of each the first is kept, and none of the 2 whose labels "
    "differ ('ant/1.jpg = ant/2.jpg', 'bee/3.jpg = cat/1.jpg')." in said
  )
  plain = image_folder.source(tmp_path, "mine")
  assert plain.fingerprint != made.fingerprint


def test_nothing_left_and_a_file_that_is_gone(tmp_path):
  photos = write(tmp_path, {"ant/1.jpg": b"one", "bee/1.jpg": b"one"})
  with pytest.raises(ImageFolderError, match="drop_copies leaves no photo"):
    image_folder.source(tmp_path, "mine", drop_copies=True)
  (tmp_path / "bee/1.jpg").unlink()
  with pytest.raises(ImageFolderError, match=r"bee/1\.jpg: cannot be read \(No such file"):
    photos_lib.copies(tmp_path, photos, "mine")


def test_the_command(tmp_path, capsys):
  numbers = sorted(set(FILES.values()))
  files = {path: official.jpeg(numbers.index(content)) for path, content in FILES.items()}
  write(tmp_path / "source", files)
  argv = [f"--source={tmp_path / 'source'}", f"--data_dir={tmp_path / 'tfds'}", "--name=mine"]
  assert commands.main(["prepare", "image_folder", *argv]) == 0
  assert "--drop_copies leaves them out" in capsys.readouterr().err
  assert commands.main(["prepare", "image_folder", *argv, "--drop_copies"]) == 2
  assert "already prepared, from OTHER photos or options" in capsys.readouterr().err
  assert commands.main(["prepare", "image_folder", *argv, "--drop_copies", "--overwrite"]) == 0
  parts = [data.load("image_folder/mine", s, data_dir=tmp_path / "tfds") for s in ("train", "test")]
  assert sum(map(len, parts)) == 6
