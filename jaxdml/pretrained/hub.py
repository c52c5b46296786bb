"""Weights by one line, "hf:ORG/NAME": found, downloaded once, converted once, kept.

A hub's branch is asked once, for its commit, and that commit is used from then on: a second start
makes no request. Delete the repository's folder in `store.cache_dir()` to ask again.
"""

import dataclasses
import functools
import re
import urllib.parse
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import jax

from jaxdml import _files
from jaxdml._version import __version__
from jaxdml.models.base import published_encoders
from jaxdml.pretrained import conversion, files, pixels, store
from jaxdml.pretrained.files import Card, ConvertError
from jaxdml.pretrained.store import WeightsError

PREFIX = "hf:"
IMAGENET = "imagenet"
"""The weights that a Python package carries: `store.load_imagenet`."""

_COMMIT = re.compile("[0-9a-f]{40}")
_SOURCE = re.compile(r"hf:([\w.-]+(?:/[\w.-]+)?)?(?:@(.+))?")
# Of several files in one repository: the first of these that is there, else the only one of a kind.
_NAMES = (
  "model.safetensors", f"model.safetensors{files.INDEX}", "open_clip_model.safetensors",
  "pytorch_model.bin", f"pytorch_model.bin{files.INDEX}", "open_clip_pytorch_model.bin",
)  # fmt: skip
_KINDS = ((".safetensors",), (".bin", ".pth", ".pt"), (".npz",))
_NO_WEIGHTS = {"training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt"}


@dataclasses.dataclass(frozen=True)
class Located:
  """A file of weights on this machine."""

  path: Path  # the file, or an index of several
  name: str  # for people: of the file, and of the repository and commit where it is one's
  commit: str = ""  # of a repository


def load(init: str, arch: str) -> tuple[Any, Card]:
  """Returns (weights, card) that `encoder.init` names, for the encoder `arch`.

  Args:
    init: "hf:ORG/NAME", perhaps with "@REVISION"; "hf:", the encoder's usual repository; a file
      .safetensors, .pth, .bin or .npz; a folder with one and perhaps a model's config.json beside
      it; one of `jaxdml convert`; or "imagenet".
    arch: a name of `models.published_encoders()`; of a folder of `jaxdml convert`, any.

  Raises:
    WeightsError: nothing there, no access, no network, damaged, or of another encoder.
  """
  path = Path(init).expanduser()
  local = init != IMAGENET and not init.startswith(PREFIX)
  # A file that has changed is another one.
  return _load(init, arch, path.stat().st_mtime_ns if local and path.exists() else 0)


def forget() -> None:
  """Lets go of the weights that `load` returned last, which it keeps for the next call."""
  _load.cache_clear()
  store.imagenet.cache_clear()


@functools.lru_cache(maxsize=1)
def _load(init: str, arch: str, changed: int) -> tuple[Any, Card]:
  if init == IMAGENET:
    return store.imagenet(arch)
  path = Path(init).expanduser()
  if not init.startswith(PREFIX) and not path.exists():
    raise WeightsError(
      f"{init}: no such file or directory; expected hf:ORG/NAME, a file of weights, a folder with "
      "model.safetensors or of jaxdml convert, a run's workdir, or imagenet"
    )
  if store.is_converted(path):
    card = store.read_card(path)
    return store.restore(path), card
  if arch not in published_encoders():
    raise WeightsError(
      f"no published weights fit {arch}; there are some for {', '.join(published_encoders())}"
    )
  try:
    if not init.startswith(PREFIX):
      found = locate(init)
      usual = published_encoders()[arch].preprocessing
      # Two models may share weights, and differ in the pixels that they take.
      about = f"{files.digest(found.path)} {pixels.beside(found.path, usual)}"
      return store.converted(arch, found.path, store.key(arch, about))
    repo, revision = _parse(init, arch)
    if (owner := _owner(repo)) not in ("", arch):
      # Families share shapes, and differ in what they compute.
      raise WeightsError(f"{PREFIX}{repo} holds weights of {owner}; set encoder.name={owner}")
    folder = _folder(repo)
    commit = _commit(repo, revision)
    if commit and (kept := store.kept(folder / _key(arch, commit))):
      return kept
    found = _download(repo, revision, commit)
    return store.converted(arch, found.path, folder / _key(arch, found.commit), found.name)
  except ConvertError as error:
    raise WeightsError(str(error)) from error


def locate(source: str, arch: str = "") -> Located:
  """Returns the file of weights that a source names, once it is on this machine.

  Args:
    source: as `init` of `load`, but for folders of `jaxdml convert` and "imagenet".
    arch: the encoder whose usual repository "hf:" is.

  Raises:
    ConvertError: a folder, or a repository, with no file of a known kind, or with several.
    WeightsError: no such path; no access to a repository, or no network.
  """
  if source.startswith(PREFIX):
    repo, revision = _parse(source, arch)
    return _download(repo, revision, _commit(repo, revision))
  path = Path(source).expanduser()
  if path.is_dir():
    path /= choose((each.name for each in path.iterdir()), str(path))
  return Located(path, path.name)


def arch_of(source: str, found: Located) -> str:
  """Returns the encoder that a located file is of; ConvertError if it is none's."""
  match = _SOURCE.fullmatch(source)
  if match and (usual := _owner(match[1] or "")):
    return usual
  archs = list(conversion.lookalikes(files.read(found.path)))
  if not archs:
    raise ConvertError(
      f"{found.name} is of no encoder here; give --arch to hear how its names differ from one of "
      f"{', '.join(published_encoders())}"
    )
  if len(archs) > 1:  # Of one shape, and perhaps with other activations.
    raise ConvertError(f"{found.name} may be of {', '.join(archs)}; say which by --arch")
  return archs[0]


def _owner(repo: str) -> str:
  """The encoder whose usual repository this is, or ""."""
  archs = (name for name, published in published_encoders().items() if repo == published.hub)
  return next(archs, "") if repo else ""


def choose(names: Iterable[str], where: str) -> str:
  """Returns the file of weights among a folder's or a repository's files.

  ConvertError: none of a known kind, or several that nothing tells apart.

  >>> choose(["config.json", "model.safetensors", "pytorch_model.bin"], "here")
  'model.safetensors'
  """
  names = sorted({name for name in names if "/" not in name} - _NO_WEIGHTS)
  for name in _NAMES:
    if name in names:
      return name
  for kind in _KINDS:
    found = [name for name in names if name.endswith(kind)]
    if len(found) > 1:
      raise ConvertError(
        f"{where} has several files of weights: {', '.join(found[:5])}; give the path of one"
      )
    if found:
      return found[0]
  kinds = ", ".join(suffix for kind in _KINDS for suffix in kind)
  raise ConvertError(
    f"{where} has no weights of a known kind ({kinds}); it has {', '.join(names[:5]) or 'no files'}"
  )


def _parse(source: str, arch: str) -> tuple[str, str]:
  """(repository, revision or "")"""
  match = _SOURCE.fullmatch(source)
  if match is None:
    raise WeightsError(
      "expected hf:ORG/NAME, hf:ORG/NAME@REVISION, or hf: for the encoder's usual repository; got "
      f"{source}"
    )
  usual = published_encoders()[arch].hub if arch in published_encoders() else ""
  if not (match[1] or usual):
    raise WeightsError(
      f"{source} names no repository, and {arch or 'no --arch'} has no usual one; expected "
      "hf:ORG/NAME"
    )
  return match[1] or usual, match[2] or ""


def _folder(repo: str) -> Path:
  return store.cache_dir() / "hub" / repo.replace("/", "--")


def _key(arch: str, commit: str) -> str:
  return f"{arch}-{__version__}-{commit[:12]}"


def _ref(repo: str, revision: str) -> Path:
  return _folder(repo) / "refs" / urllib.parse.quote(revision or "main", safe="")


def _commit(repo: str, revision: str) -> str:
  """The commit that a revision was when it was asked for first; "" if it never was."""
  if _COMMIT.fullmatch(revision):
    return revision
  ref = _ref(repo, revision)
  text = ref.read_text("utf-8").strip() if ref.is_file() else ""
  return text if _COMMIT.fullmatch(text) else ""


def _remember(repo: str, revision: str, commit: str) -> None:
  if not _COMMIT.fullmatch(revision) and jax.process_count() == 1:
    try:
      _files.write_text(_ref(repo, revision), commit + "\n")
    except OSError:
      return  # A cache that cannot be written to was told of when the weights were to be kept.


def _download(repo: str, revision: str, commit: str) -> Located:
  """Fetches a repository's weights, and what says how pixels are prepared, unless they are here."""
  try:
    import huggingface_hub
    from huggingface_hub import constants, errors
  except ImportError as error:
    raise WeightsError(
      f"{PREFIX}{repo} needs the hub's client: pip install 'jaxdml[hub]'"
    ) from error
  asked = commit or revision or "main"
  if commit and (here := _downloaded(repo, commit)):
    return here
  try:
    about = huggingface_hub.HfApi().model_info(
      repo, revision=asked, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
    )
    listed = {each.rfilename: each for each in about.siblings or ()}
    commit = about.sha
    name = choose(listed, f"{PREFIX}{repo}")
    get = functools.partial(huggingface_hub.hf_hub_download, repo, revision=commit)
    # What says how pixels are prepared comes first: where the weights are, it is.
    for other in sorted(set(pixels.FILES) & set(listed)):
      get(other)
    path = Path(get(name))
    for part in [path, *files.shards(path)]:
      got = Path(get(part.name))
      lfs = getattr(listed.get(part.name), "lfs", None)
      if lfs and lfs.sha256 != _files.sha256(got):
        raise WeightsError(
          f"{got} is not what {PREFIX}{repo} holds (another SHA-256): delete it, also what it is a "
          "link to, and start again"
        )
    _remember(repo, revision, commit)
    return Located(path, f"{name} of {repo}@{commit[:12]}", commit)
  except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, errors.HTTPError, OSError,
          errors.HFValidationError) as error:  # fmt: skip
    final = isinstance(error, errors.RepositoryNotFoundError | errors.RevisionNotFoundError)
    if not final and (here := _downloaded(repo, asked)):
      return here
    _explain(error, repo, asked)


def _downloaded(repo: str, revision: str) -> Located | None:
  """The weights of a repository in the cache of huggingface_hub, whole; None if they are not."""
  from huggingface_hub import try_to_load_from_cache

  for name in _NAMES:
    found = try_to_load_from_cache(repo, name, revision=revision)
    if isinstance(found, str) and all(part.is_file() for part in files.shards(Path(found))):
      commit = Path(found).parent.name  # .../snapshots/COMMIT/FILE
      return Located(Path(found), f"{name} of {repo}@{commit[:12]}", commit)
  return None


def _explain(error: Exception, repo: str, revision: str) -> NoReturn:
  """Raises WeightsError, one line that says what to do."""
  from huggingface_hub import constants, errors

  page = f"{constants.ENDPOINT}/{repo}"
  login = "log in by `hf auth login`, or set HF_TOKEN"
  reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
  if isinstance(error, errors.GatedRepoError):
    text = f"is gated: accept its licence on {page}, then {login}"
  elif isinstance(error, errors.RepositoryNotFoundError):
    text = f"is no repository of {constants.ENDPOINT}, or a private one: mend the name, or {login}"
  elif isinstance(error, errors.RevisionNotFoundError):
    text = f"has no revision {revision!r} (any more): {page}/commits/main lists those that it has"
  elif isinstance(error, errors.HFValidationError):
    text = f"is no name of a repository ({reason}); expected hf:ORG/NAME"
  elif "Consistency check" in reason or "peer closed" in reason or "incomplete" in reason.lower():
    text = f"came cut short ({reason}); start again"
  else:
    text = (
      f"cannot be reached ({reason}) and is not here: get {page}/resolve/{revision}/"
      "model.safetensors and config.json, on another machine if need be, put both into a folder, "
      "and give that folder in place of hf:..."
    )
  raise WeightsError(f"{PREFIX}{repo} {text}") from error
