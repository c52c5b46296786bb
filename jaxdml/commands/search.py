"""Searches embedded images, or a folder of them, for those that look like some query images.

jaxdml search --embeddings=embeddings --query=photo.jpg --out=results.html
jaxdml search --workdir=runs/glyphs --images=photos --query=photo.jpg --out=results.html
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import pathlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from jaxdml._text import printable
from jaxdml.commands import errors as command

_CHECKED = 1000  # rows of the store that --check searches for
_BACKENDS = ("exact", "faiss", "usearch")


def main(argv: Sequence[str] | None = None) -> int:
  """Prints what is nearest to each query; returns the exit status."""
  parser = argparse.ArgumentParser(
    prog="jaxdml search",
    description="Finds the images nearest to query images, in a folder of jaxdml embed "
    "or, embedding it first, in a folder of images.",
  )
  parser.add_argument("--embeddings", action="append", help="the --out of jaxdml embed")
  parser.add_argument("--images", help="or a folder of images, to embed now; needs --workdir")
  parser.add_argument(
    "--query", nargs="+", action="extend", required=True, help="image files, or folders of them"
  )
  parser.add_argument("--k", type=int, default=10, help="images to find for each query (10)")
  parser.add_argument(
    "--backend", default="exact",
    help="exact; or faiss, usearch: approximate, faster in large collections (exact)",
  )  # fmt: skip
  parser.add_argument("--out", help="results as a page, .html, or a picture, .png")
  parser.add_argument(
    "--workdir", help="of the model; default: where it was when the embeddings were made"
  )
  parser.add_argument(
    "--check", action="store_true", help="measure how much an approximate backend misses"
  )
  parser.add_argument(
    "--max_bad_images", type=float, default=None, help="with --images: as in jaxdml embed"
  )
  args = parser.parse_args(argv)
  # After parsing, so that --help does not wait for JAX.
  from jaxdml import data, search
  from jaxdml.training import checkpoints
  from jaxdml.training import config as config_lib

  try:
    _check_arguments(args)
    queries = read_queries(args.query)
    with contextlib.ExitStack() as stack:
      store, trained = _open(args, stack)
      for remark in trained.remarks:
        print(f"note: {remark}", file=sys.stderr)
      _retrieve(args, queries, store, trained)
  except (
    checkpoints.CheckpointError, config_lib.ConfigError, data.DatasetNotPreparedError,
    data.ImageDecodeError, data.WorkerError, search.SearchError, OSError, ValueError,
  ) as error:  # fmt: skip
    print(f"error: {error}", file=sys.stderr)
    return 2
  return 0


def _check_arguments(args: argparse.Namespace) -> None:
  """What can be refused before anything is read."""
  from jaxdml import search
  from jaxdml.search import page

  if args.embeddings is not None:
    first, *others = args.embeddings
    if others:
      raise ValueError(
        f"--embeddings: expected one folder, got {first} and {', '.join(others)}; to search "
        "several folders of images at once, embed the folder above them"
      )
    args.embeddings = first
  if (args.embeddings is None) == (args.images is None):
    raise ValueError(
      "expected either --embeddings=DIR of jaxdml embed or --images=DIR of images, "
      f"got {'both' if args.images else 'neither'}"
    )
  if args.images is not None and args.workdir is None:
    raise ValueError("--images needs --workdir, the run whose model embeds them")
  if args.k < 1:
    raise ValueError(f"--k: expected at least 1, got {args.k}")
  if args.backend not in search.BACKENDS:
    raise ValueError(f"--backend: expected one of {', '.join(_BACKENDS)}; got {args.backend!r}")
  if args.out is not None:
    page.check_out(args.out)


def read_queries(paths: Sequence[str]) -> list[Any]:
  """Reads query images, those of a folder at any depth.

  Raises:
    SearchError: there is no such file, it cannot be read, or a folder holds no image.
  """
  from jaxdml import data, search

  queries = []
  for given in paths:
    path = pathlib.Path(given).expanduser()
    if path.is_dir():
      folder = search.FolderImages.open(path)
      # As it was given, for people to recognise.
      files = [path / below for below in folder.paths]
    elif path.exists():
      files = [path]
    else:
      raise search.SearchError(f"--query={given}: no such file; expected an image, or a folder")
    for file in files:
      try:
        encoded = file.read_bytes()
        data.decode.decode(encoded, 3)
      except OSError as error:
        raise search.SearchError(f"--query={file} cannot be read: {error.strerror}") from error
      except data.ImageDecodeError as error:
        raise search.SearchError(f"--query={file} is no image that can be read: {error}") from error
      queries.append(search.Query(os.fspath(file), encoded))
  return queries


def _open(args: argparse.Namespace, stack: contextlib.ExitStack) -> tuple[Any, Any]:
  """The store to search and the model that made it."""
  from jaxdml import inference, search

  if args.images is not None:
    source = search.FolderImages.open(args.images)
    trained = inference.load(args.workdir)
    folder = stack.enter_context(_cache(args.out, trained, source))
    share = trained.config.data.max_bad_images
    share = share if args.max_bad_images is None else args.max_bad_images
    summary = search.embed_images(trained, source, folder, max_bad_images=share,
                                  num_workers=trained.config.data.num_workers)  # fmt: skip
    for file, reason in summary.skipped:
      print(f"left out: {file}: {reason}", file=sys.stderr)
    return search.Store.open(folder), trained
  store = search.Store.open(args.embeddings)
  made_by = store.model
  workdir = args.workdir or made_by["workdir"]
  if not workdir:
    raise search.SearchError(
      f"{args.embeddings} does not say which model made it; give the run's --workdir"
    )
  if args.workdir is None and not os.path.isdir(workdir):
    raise search.SearchError(
      f"{args.embeddings} was made by the model in {workdir}, which is not there any more; give "
      "its new place as --workdir"
    )
  trained = inference.load(workdir)
  ours = trained.fingerprint, trained.dimension
  if ours != (made_by["fingerprint"], made_by["dimension"]):
    raise search.SearchError(
      f"{args.embeddings} was made by another model than the one in {workdir}: "
      f"{made_by['fingerprint']}, {made_by['dimension']} dimensions, step {made_by['step']}; in "
      f"{workdir} is {ours[0]}, {ours[1]} dimensions, step {trained.step}. Give the --workdir that "
      f"made it ({made_by['workdir']} then), or embed the images again into another folder"
    )
  return store, trained


@contextlib.contextmanager
def _cache(out: str | None, trained: Any, source: Any) -> Iterator[str]:
  """Where the embeddings of --images go: next to --out, for the next time, or away at the end."""
  if out is None:
    with tempfile.TemporaryDirectory(prefix="jaxdml-") as folder:
      yield os.path.join(folder, "embeddings")
    return
  # Other photos or another model, another folder.
  what = json.dumps([trained.fingerprint, source.settings()], sort_keys=True)
  name = hashlib.sha256(what.encode()).hexdigest()[:12]
  path = pathlib.Path(out).expanduser()
  folder = os.fspath(path.with_name(f"{path.stem}.embeddings-{name}"))
  yield folder
  print(f"embeddings are in {folder}: --embeddings={folder} searches them again")


def _retrieve(args: argparse.Namespace, queries: list[Any], store: Any, trained: Any) -> None:
  """Searches, prints and writes."""
  from jaxdml import search

  k = min(args.k, len(store))
  if k < args.k:
    print(f"--k={args.k}: there are {len(store)} images to search, so {k} are shown",
          file=sys.stderr)  # fmt: skip
  index = search.Index(store.embeddings, backend=args.backend)
  found = index.search(search.embed_files(trained, [query.image for query in queries]), k)
  results = search.collect(store, queries, found)
  source = store.source
  # Names without their folders: pages are passed on.
  if source["kind"] == "folder":
    name = os.path.basename(source["root"]) or source["root"]
  else:
    name = f"{source['name']} {source['split']}"
  run = os.path.basename(os.path.abspath(trained.workdir))
  note = (
    f"{len(store)} images of {name}, by cosine similarity ({index.description}). "
    f"Model: {run}, step {trained.step}."
  )
  print(f"{search.format_results(results)}\n{printable(note)}")
  if args.check and index.approximate:
    print(check(index, store, k))
  gone = sum(hit.image is None for result in results for hit in result.hits)
  if gone:
    print(f"{gone} of the images found are not in {name} any more", file=sys.stderr)
  if args.out is not None:
    print(f"wrote {search.write_page(args.out, results, title='Nearest images', note=note)}")


def check(index: Any, store: Any, k: int, seed: int = 0) -> str:
  """Says which share of the exact neighbours an index finds, for rows of the store at random."""
  import numpy as np

  from jaxdml import search

  count = min(len(store), _CHECKED)
  rows = np.random.default_rng(seed).permutation(len(store))[:count]
  queries = store.embeddings[rows]
  exact = search.Index(store.embeddings).search(queries, k)
  share = search.recall(index.search(queries, k), exact)
  return f"{index.backend} finds {share:.4f} of the {k} nearest, for {count} images of the store"


if __name__ == "__main__":
  sys.exit(command.run(main))
