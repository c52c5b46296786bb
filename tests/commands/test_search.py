"""evaluate, embed and retrieve, as they are typed; each wrong input is one message."""

import dataclasses
import json
import re
import shutil

import jax
import numpy as np
import pytest
from absl import logging
from pyarrow import parquet

from jaxdml import _files, commands, data, distances, evaluation, inference, search, training
from jaxdml.training.config import ConfigError
from tests.search.helpers import make_workdir, png, write_images
from tests.training.conftest import data_dir as data_dir

PHOTOS = ["cat/1.png", "cat/2.png", "<b>dog&/3.png", "loose.png"]


@pytest.fixture(scope="module")
def workdir(data_dir, tmp_path_factory):
  return make_workdir(tmp_path_factory.mktemp("runs") / "run", data_dir)


@pytest.fixture(scope="module")
def other(data_dir, tmp_path_factory):
  options = {"seed": 1, "data.label": "label//2"}
  return make_workdir(tmp_path_factory.mktemp("runs") / "other", data_dir, **options)


@pytest.fixture(scope="module")
def wider(data_dir, tmp_path_factory):
  return make_workdir(tmp_path_factory.mktemp("runs") / "wide", data_dir, **{"embedding.dim": 9})


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
  return write_images(tmp_path_factory.mktemp("photos"), PHOTOS)


@pytest.fixture(scope="module")
def store(workdir, photos, tmp_path_factory):
  out = tmp_path_factory.mktemp("stores") / "store"
  assert commands.main(["embed", f"--workdir={workdir}", f"--images={photos}", f"--out={out}"]) == 0
  return out


def refused(command, arguments, capsys, *patterns):
  """The command ends with status 2 and one message."""
  assert commands.main([command, *map(str, arguments)]) == 2
  printed = capsys.readouterr()
  assert printed.err.count("error: ") == 1 and "Traceback" not in printed.err
  message = printed.err[printed.err.index("error: ") :]
  for pattern in patterns:
    assert re.search(pattern, message), message
  return message


def test_embed_and_retrieve(workdir, photos, store, tmp_path, capsys):
  trained = inference.load(workdir)
  opened = search.Store.open(store)
  assert opened.model["fingerprint"] == trained.fingerprint
  assert opened.labels == ("<b>dog&", "cat", "cat", None)
  # Whoever reads a folder of Parquet passes over what begins with an underscore.
  assert parquet.read_table(store, columns=["label"])["label"].to_pylist() == [*opened.labels]
  images = np.stack([trained.preprocess((photos / path).read_bytes()) for path in opened.paths])
  np.testing.assert_allclose(opened.embeddings, trained.embed_batch(images), rtol=1e-4, atol=1e-5)
  query, out = photos / "cat" / "2.png", tmp_path / "found.html"
  arguments = [f"--embeddings={store}", f"--query={query}", "--k=3", f"--out={out}"]
  assert commands.main(["search", *arguments]) == 0
  printed = capsys.readouterr().out
  assert re.search(r" 1 +1\.000 +cat +cat/2\.png  \(the query itself\)", printed)
  assert "4 images of" in printed and "(exact)" in printed and "step 3" in printed
  assert out.read_text().count("<img") == 4 and "<b>dog" not in out.read_text()
  for backend in ("faiss", "usearch"):
    given = [*arguments[:-1], f"--backend={backend}", "--check", f"--out={tmp_path / 'x.png'}"]
    assert commands.main(["search", *given]) == 0
    assert f"{backend} finds 1.0000 of the 3 nearest, for 4 images" in capsys.readouterr().out


def test_the_query_and_its_copies_are_left_out(workdir, photos, tmp_path, capsys):
  """Of three copies of the query and three others, the nearest others are found."""
  folder = tmp_path / "photos"
  shutil.copytree(photos, folder)
  for name in ("copy.png", "again.png"):
    shutil.copy(photos / "cat" / "2.png", folder / name)
  given = [f"--workdir={workdir}", f"--images={folder}", f"--query={photos / 'cat' / '2.png'}"]
  ranked = {}
  for option in ([], ["--without_query"]):
    assert commands.main(["search", *given, "--k=6" if not option else "--k=2", *option]) == 0
    printed = capsys.readouterr().out
    ranked[bool(option)] = re.findall(r"^ +(\d+) +\S+ +\S+ +(\S+)$", printed, re.MULTILINE)
    assert ("(the query itself)" in printed) != bool(option)
  others = [path for _, path in ranked[False]]
  assert len(others) == 3
  assert ranked[True] == [("1", others[0]), ("2", others[1])]


def test_a_model_of_the_ball_is_searched_by_its_distance(data_dir, photos, tmp_path, capsys):
  keys = {"loss.name": "contrastive", "loss.distance": "hyperbolic"}
  run = make_workdir(tmp_path / "run", data_dir, **keys)
  given = [f"--workdir={run}", f"--images={photos}", f"--query={photos / 'cat' / '2.png'}"]
  assert commands.main(["search", *given, f"--out={tmp_path / 'x.png'}"]) == 0
  printed = capsys.readouterr().out
  assert "4 images of photos" in printed and "by distance (hyperbolic; its negative" in printed
  assert re.search(r" 1 +-?0\.0\d\d +cat +cat/2\.png  \(the query itself\)", printed)
  (folder,) = tmp_path.glob("x.embeddings-*")
  store = search.Store.open(folder)
  between = np.asarray(distances.hyperbolic()(store.embeddings[2:3], store.embeddings))[0]
  shown = [float(value) for value in re.findall(r"^ +\d+ +(-?\d+\.\d+) ", printed, re.MULTILINE)]
  np.testing.assert_allclose(shown, -np.sort(between), atol=0.05)  # float32 near the rim
  given = [f"--embeddings={folder}", given[2], "--backend=faiss"]
  refused("search", given, capsys, "backend 'faiss' ranks by cosine similarity alone")


def test_a_folder_in_one_command(workdir, photos, tmp_path, capsys):
  queries = write_images(tmp_path / "queries", ["a.png", "deep/b.png"])
  arguments = [f"--workdir={workdir}", f"--images={photos}", "--query", str(queries), "--k=2"]
  assert commands.main(["search", *arguments, f"--out={tmp_path / 'found.png'}"]) == 0
  (kept,) = tmp_path.glob("found.embeddings-*")
  assert f"--embeddings={kept} searches them again" in capsys.readouterr().out
  assert len(search.Store.open(kept)) == 4
  assert commands.main(["search", *arguments, f"--out={tmp_path / 'found.html'}"]) == 0
  assert commands.main(["search", f"--embeddings={kept}", *arguments[2:]]) == 0
  printed = capsys.readouterr()
  assert "deep/b.png" in printed.out and "error" not in printed.err


def test_without_out_nothing_is_left(workdir, photos, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
  query = f"--query={photos / 'loose.png'}"
  assert commands.main(["search", f"--workdir={workdir}", f"--images={photos}", query]) == 0
  assert list(tmp_path.iterdir()) == []


def test_more_than_there_is_is_explained(photos, store, capsys):
  assert commands.main(["search", f"--embeddings={store}", f"--query={photos / 'loose.png'}"]) == 0
  printed = capsys.readouterr()
  assert "--k=10: there are 4 images to search, so 4 are shown" in printed.err
  assert len(re.findall(r"^ +\d+ ", printed.out, re.MULTILINE)) == 4


def test_images_that_are_gone(workdir, tmp_path, capsys):
  photos = write_images(tmp_path / "photos", PHOTOS)
  commands.main(["embed", f"--workdir={workdir}", f"--images={photos}", f"--out={tmp_path / 's'}"])
  shutil.move(photos / "loose.png", tmp_path / "query.png")
  out = tmp_path / "x.html"
  given = [f"--embeddings={tmp_path / 's'}", f"--query={tmp_path / 'query.png'}", f"--out={out}"]
  assert commands.main(["search", *given]) == 0
  assert "1 of the images found are not in" in capsys.readouterr().err
  assert "image not there" in out.read_text()


def test_another_model_is_refused(photos, store, other, wider, capsys):
  query = f"--query={photos / 'loose.png'}"
  given = [f"--embeddings={store}", query, f"--workdir={other}"]
  refused("search", given, capsys, "was made by another model than the one in", "embed the images")
  given = [f"--embeddings={store}", query, f"--workdir={wider}"]
  refused("search", given, capsys, "8 dimensions, step 3; in .*, 9 dimensions")
  given = [f"--workdir={other}", f"--images={photos}", f"--out={store}"]
  refused("embed", given, capsys, "holds embeddings of another model.*Give another --out")


def test_a_run_that_moved(data_dir, photos, tmp_path, capsys):
  run = make_workdir(tmp_path / "run", data_dir)
  out = tmp_path / "store"
  commands.main(["embed", f"--workdir={run}", f"--images={photos}", f"--out={out}"])
  shutil.move(run, tmp_path / "moved")
  given = [f"--embeddings={out}", f"--query={photos / 'loose.png'}"]
  refused("search", given, capsys, "not there any more; give its new place as --workdir")
  assert commands.main(["search", *given, f"--workdir={tmp_path / 'moved'}"]) == 0


@pytest.mark.parametrize(
  ("change", "pattern"),
  [
    (["--embeddings=nowhere"], "nowhere does not exist; expected the --out of"),
    (["--embeddings={photos}"], "holds no embeddings: there is no _embeddings.json"),
    (["--query=no.png"], "--query=no.png: no such file; expected an image, or a folder"),
    (["--query={tmp}/bad.png"], "bad.png is no image that can be read: not an image in one of"),
    (["--query={tmp}/cut.png"], "cut.png is no image that can be read: .* cut short"),
    (["--query={tmp}/empty"], "empty holds no image"),
    (["--k=0"], "--k: expected a whole number of at least 1, got '0'"),
    (["--backend=annoy"], "--backend: expected one of exact, faiss, usearch, got 'annoy'"),
    (["--out=x.pdf"], r"--out: expected a name that ends in \.html.* got x\.pdf"),
    (["--images={photos}"], "--images: not allowed with argument --embeddings"),
    (["--workdir={tmp}/nothing"], "holds no run: there is no config.json in it"),
    (["--workdir={tmp}/empty"], "holds no run: there is no config.json in it"),
  ],
)
def test_retrieve_refuses(photos, store, tmp_path, capsys, change, pattern):
  (tmp_path / "bad.png").write_text("no image")
  (tmp_path / "cut.png").write_bytes(png(0)[:-20])
  (tmp_path / "empty").mkdir()
  given = {"--embeddings": store, "--query": photos / "loose.png"}
  (argument,) = change
  name, _, value = argument.partition("=")
  given[name] = value.format(photos=photos, tmp=tmp_path)
  refused("search", [f"{name}={value}" for name, value in given.items()], capsys, pattern)


def test_retrieve_images_refuses(workdir, photos, tmp_path, capsys):
  query = f"--query={photos / 'loose.png'}"
  refused("search", [query], capsys, "one of the arguments --embeddings --images is required")
  twice = [query, "--embeddings=one", "--embeddings=more"]
  refused("search", twice, capsys, "--embeddings: expected one folder, got one and more; to search")
  refused("search", [query, f"--images={photos}"], capsys, "--images needs --workdir")
  given = [query, f"--workdir={workdir}", f"--images={tmp_path}"]
  refused("search", given, capsys, "holds no image, at any depth")
  (tmp_path / "bad.png").write_text("no image")
  refused("search", given, capsys, "1 of 1 images cannot be decoded")
  (tmp_path / "a.png").write_bytes(png(0))
  assert commands.main(["search", *given, "--max_bad_images=0.5"]) == 0
  assert "left out:" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("change", "pattern"),
  [
    (["--workdir={tmp}"], "holds no run: there is no config.json"),
    (["--images={tmp}"], "holds no image"),
    (["--out={photos}"], "is no folder of embeddings and not empty"),
    (["--shard_size=0"], "--shard_size: expected a whole number of at least 1"),
    (["--batch_size=0"], "--batch_size: expected a whole number of at least 1"),
    (["--max_bad_images=2"], "--max_bad_images: expected a number from 0 to 1"),
  ],
)
def test_embed_refuses(workdir, photos, tmp_path, capsys, change, pattern):
  given = {"--workdir": workdir, "--images": photos, "--out": tmp_path / "store"}
  (argument,) = change
  name, _, value = argument.partition("=")
  given[name] = value.format(photos=photos, tmp=tmp_path)
  refused("embed", [f"{name}={value}" for name, value in given.items()], capsys, pattern)


def test_embed_a_data_set(workdir, data_dir, tmp_path, capsys):
  out = tmp_path / "store"
  given = [f"--workdir={workdir}", "--dataset=digits", f"--out={out}", "--shard_size=500"]
  assert commands.main(["embed", *given]) == 0
  assert "wrote 2 of 2 shards" in capsys.readouterr().out
  store = search.Store.open(out)
  assert len(store) == 896 and store.paths[5] == "digits/test/5"
  (tmp_path / "q.png").write_bytes(store.image(5))
  assert (
    commands.main(["search", f"--embeddings={out}", f"--query={tmp_path / 'q.png'}", "--k=4"]) == 0
  )
  assert "digits/test/5  (the query itself)" in capsys.readouterr().out
  refused("embed", [*given[:1], "--dataset=digit", *given[2:]], capsys, "unknown data set 'digit'")
  refused("embed", [*given[:1], "--dataset=cub200_2011", *given[2:]], capsys, "prepare")


def test_a_host_of_several(workdir, photos, tmp_path, capsys, monkeypatch):
  joined, trained = [], inference.load(workdir)
  monkeypatch.setattr(inference, "load", lambda *_, **__: trained)
  monkeypatch.setattr(jax.distributed, "initialize", lambda: joined.append(True))
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  given = [f"--workdir={workdir}", f"--images={photos}", f"--out={tmp_path / 's'}"]
  for index, end in ((1, "; the others are for the other hosts"), (0, ", which is finished")):
    monkeypatch.setattr(jax, "process_index", lambda index=index: index)
    assert commands.main(["embed", *given, "--shard_size=1", "--multihost"]) == 0
    assert f"wrote 2 of 4 shards to {tmp_path / 's'}{end}" in capsys.readouterr().out
  assert len(joined) == 2


@pytest.mark.slow
def test_evaluate(workdir, data_dir, tmp_path, capsys):
  (workdir / "results.json").write_text(
    json.dumps({"raw pixels": {"recall@1": 0.5, "num_queries": 9}, "trained model": {"nmi": 9.0}})
  )
  out = tmp_path / "new" / "metrics.json"
  assert commands.main(["evaluate", f"--workdir={workdir}", f"--out={out}"]) == 0
  printed = capsys.readouterr().out
  assert "digits test, by label: 896 queries" in printed and "raw pixels" in printed
  assert "collapse/modes_kept" in printed
  result = json.loads(out.read_text())
  assert result["step"] == 3 and result["dataset"] == "digits" and result["label"] == "label"
  # The model's row is measured, not read; it equals the metrics of its embeddings.
  metrics = result["metrics"]["trained model"]
  trained, test = inference.load(workdir), data.load("digits", "test", data_dir=data_dir)
  x = inference.embed(trained, test.read(range(len(test))))
  expected = evaluation.retrieval_metrics(x, test.column("label"), ks=(1, 2, 4, 8))
  for name in ("recall@1", "recall@8", "map@r"):
    assert metrics[name] == pytest.approx(expected[name], abs=2e-3)
  assert {"nmi", "f1", "collapse/within/map@r"} <= metrics.keys()
  # By another label, or on another split, the floors of results.json do not hold.
  for change, shown in (
    ("--label=parity", "test, by parity"),
    ("--label=label//2", "test, by label//2"),
    ("--split=train", "train, by label"),
  ):
    assert commands.main(["evaluate", f"--workdir={workdir}", change]) == 0
    printed = capsys.readouterr().out
    assert f"digits {shown}" in printed and "raw pixels" not in printed


def test_a_model_that_is_not_finished_says_so(data_dir, tmp_path, capsys):
  run = make_workdir(tmp_path / "run", data_dir)
  (remark,) = inference.load(run).remarks
  assert remark.endswith("has not finished; its best model so far is that of step 3")
  assert commands.main(["evaluate", f"--workdir={run}"]) == 0
  assert f"note: {remark}\n" in capsys.readouterr().err
  (run / "results.json").write_text("{}")
  assert inference.load(run).remarks == []
  (beaten,) = dataclasses.replace(inference.load(run), step=0).remarks
  assert "training has not beaten it" in beaten


def test_reading_checkpoints_warns_of_nothing(workdir, caplog):
  before = logging.get_verbosity()
  inference.load(workdir)
  assert not caplog.records and logging.get_verbosity() == before


def test_data_made_anew_have_no_old_floors(workdir, capsys):
  (workdir / "results.json").write_text(json.dumps({"raw pixels": {"recall@1": 0.5}}))
  path = workdir / "data.json"
  about = {"test": {"images": 800, "classes": 10, "digest": "0" * 16}}
  path.write_text(json.dumps(_files.seal(about)))
  try:
    assert commands.main(["evaluate", f"--workdir={workdir}"]) == 0
    printed = capsys.readouterr()
    changed = "test split 800 images of 10 classes then, 896 images of"
    assert changed in printed.err and "raw pixels" not in printed.out
    with pytest.raises(ConfigError, match=changed):
      training.restore(workdir)
  finally:
    path.unlink()


def test_evaluate_by_the_groups_of_training(other, capsys):
  assert commands.main(["evaluate", f"--workdir={other}"]) == 0
  printed = capsys.readouterr().out
  assert "digits test, by label:" in printed and "collapse/modes_kept" in printed


def test_evaluate_refuses(workdir, tmp_path, capsys):
  run = f"--workdir={workdir}"
  refused("evaluate", [f"--workdir={tmp_path}"], capsys, "holds no run")
  refused("evaluate", [run, "--dataset=nothing"], capsys, "unknown data set 'nothing'")
  refused("evaluate", [run, "--split=middle"], capsys, "no split 'middle'")
  refused("evaluate", [run, "--label=species"], capsys, "no label column 'species'")
  given = [run, "--dataset=digits", f"--data_dir={tmp_path}", "--label=x"]
  refused("evaluate", given, capsys, "no label column 'x'")
  refused("evaluate", [run, "--label=label//11"], capsys, "expected COLUMN//M with 1 <= M <= 10")
  (tmp_path / "file").write_text("")
  refused("evaluate", [run, f"--out={tmp_path / 'file' / 'x.json'}"], capsys, "file")
  refused(
    "evaluate", [run, f"--out={tmp_path}"], capsys, "is a folder; expected the name of a file"
  )
