"""`jaxdml search`: the images that look most like some query images."""

import argparse
import contextlib
import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from jaxdml._text import printable
from jaxdml.commands import _options
from jaxdml.commands._cli import Command, Parser, UsageError, left_out, note, tell

_CHECKED = 1000  # rows of the store that --check searches for
_BACKENDS = ("exact", "faiss", "usearch")


def _add_options(parser: Parser) -> None:
  searched = parser.add_mutually_exclusive_group(required=True)
  _options.add(searched, "embeddings")
  _options.add(searched, "images", help="or a folder of images, to embed now; needs --workdir")
  _options.add(parser, "query", required=True, help="images, or folders of them")
  _options.add(parser, "k", default=10, help="images to find for each query (10)")
  parser.add_argument(
    "--without_query", action="store_true",
    help="leave out images that are the query itself: the same file, or the same bytes",
  )  # fmt: skip
  parser.add_argument(
    "--backend", default="exact", type=_options.one_of(_BACKENDS),
    help="exact; or faiss, usearch: approximate, faster in large collections, but they lose "
    "neighbours, of exact copies most of all (exact)",
  )  # fmt: skip
  _options.add(parser, "out", help="results as a page, .html, or a picture, .png")
  _options.add(parser, "workdir", help="of the model (where it was when the embeddings were made)")
  parser.add_argument(
    "--check", action="store_true", help="measure how much an approximate backend misses"
  )
  _options.add(parser, "max_bad_images")


def _run(args: argparse.Namespace) -> None:
  if args.embeddings is not None:
    first, *others = args.embeddings
    if others:
      raise UsageError(
        f"--embeddings: expected one folder, got {first} and {', '.join(map(str, others))}; to "
        "search several folders of images at once, embed the folder above them"
      )
    args.embeddings = first
  if args.images is not None and args.workdir is None:
    raise UsageError("--images needs --workdir, the run whose model embeds them")
  if args.out is not None:
    _options.check_file("out", args.out, (".html", ".htm", ".png"))
  queries = read_queries(args.query)
  with contextlib.ExitStack() as stack:
    store, trained = _open(args, stack)
    note(*trained.remarks)
    _retrieve(args, queries, store, trained)


def read_queries(paths: Sequence[pathlib.Path]) -> list[Any]:
  """Reads query images, those of a folder at any depth.

  Raises:
    SearchError: there is no such file, it cannot be read, or a folder holds no image.
  """
  from jaxdml import inference, search
  from jaxdml.data import ImageDecodeError, decode

  queries = []
  for given in paths:
    path = pathlib.Path(given).expanduser()
    if path.is_dir():
      folder = inference.FolderImages.open(path)
      # As it was given, for people to recognise.
      files = [path / below for below in folder.paths]
    elif path.exists():
      files = [path]
    else:
      raise search.SearchError(f"--query={given}: no such file; expected an image, or a folder")
    for file in files:
      try:
        encoded = file.read_bytes()
        decode.decode(encoded, 3)
      except OSError as error:
        raise search.SearchError(f"--query={file} cannot be read: {error.strerror}") from error
      except ImageDecodeError as error:
        raise search.SearchError(f"--query={file} is no image that can be read: {error}") from error
      queries.append(search.Query(os.fspath(file), encoded))
  return queries


def _open(args: argparse.Namespace, stack: contextlib.ExitStack) -> tuple[Any, Any]:
  """The store to search and the model that made it."""
  from jaxdml import inference, search

  if args.images is not None:
    source = inference.FolderImages.open(args.images)
    trained = inference.load(args.workdir)
    folder = stack.enter_context(_cache(args.out, trained, source))
    share = trained.config.data.max_bad_images
    share = share if args.max_bad_images is None else args.max_bad_images
    summary = search.build_store(trained, source, folder, max_bad_images=share,
                                  num_workers=trained.config.data.num_workers)  # fmt: skip
    left_out(summary.skipped)
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
def _cache(out: pathlib.Path | None, trained: Any, source: Any) -> Iterator[str]:
  """The folder for the embeddings of --images: next to --out, to search again, or a passing one."""
  if out is None:
    with tempfile.TemporaryDirectory(prefix="jaxdml-") as folder:
      yield os.path.join(folder, "embeddings")
    return
  # Other photos or another model, another folder.
  what = json.dumps([trained.fingerprint, source.settings()], sort_keys=True)
  name = hashlib.sha256(what.encode()).hexdigest()[:12]
  folder = os.fspath(out.with_name(f"{out.stem}.embeddings-{name}"))
  yield folder
  print(f"embeddings are in {folder}: --embeddings={folder} searches them again")


def _retrieve(args: argparse.Namespace, queries: list[Any], store: Any, trained: Any) -> None:
  """Searches, prints and writes."""
  from jaxdml import inference, search

  k = min(args.k, len(store))
  if k < args.k:
    tell(f"--k={args.k}: there are {len(store)} images to search, so {k} are shown")
  distance_fn = store.distance_fn
  index = search.Index(store.embeddings, backend=args.backend, distance_fn=distance_fn)
  vectors = inference.embed(trained, [query.image for query in queries])
  if args.without_query:
    results = search_others(index, vectors, store, queries, k)
  else:
    results = search.collect(store, queries, index.search(vectors, k))
  source = store.source
  # Names without their folders: pages are passed on.
  if source["kind"] == "folder":
    name = os.path.basename(source["root"]) or source["root"]
  else:
    name = f"{source['name']} {source['split']}"
  how = "cosine similarity"
  if distance_fn is not None:
    how = f"distance ({store.model['distance']['name']}; its negative is shown)"
  run = os.path.basename(os.path.abspath(trained.workdir))
  note = (
    f"{len(store)} images of {name}, by {how} ({index.description}). "
    f"Model: {run}, step {trained.step}."
  )
  print(f"{search.format_results(results)}\n{printable(note)}")
  if args.check and index.approximate:
    print(check(index, store, k))
  gone = sum(hit.image is None for result in results for hit in result.hits)
  if gone:
    tell(f"{gone} of the images found are not in {name} any more")
  if args.out is not None:
    print(f"wrote {search.write_page(args.out, results, title='Nearest images', note=note)}")


def search_others(index: Any, vectors: Any, store: Any, queries: list[Any], k: int) -> list[Any]:
  """Results of up to k hits each, none of them the query itself."""
  from jaxdml import search

  extra = 1  # The query once; a collection may hold copies of it.
  while True:
    found = search.collect(store, queries, index.search(vectors, k + extra))
    results = [search.without_query(result, k) for result in found]
    if k + extra >= len(store) or all(len(result.hits) == k for result in results):
      return results
    extra *= 4


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


COMMAND = Command("Finds the images nearest to query images", _add_options, _run)
