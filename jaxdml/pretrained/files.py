"""Other libraries' weight files, read without running anything in them, and the card of one."""

import dataclasses
import functools
import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import ml_dtypes
import numpy as np

from jaxdml import _files
from jaxdml.errors import JaxdmlError
from jaxdml.models.base import Preprocessing, State
from jaxdml.pretrained import state_dicts

WRAPPERS = ("state_dict", "model", "model_state_dict", "teacher")
"""Keys under which training scripts put the state dict of the file that they save."""

PREFIXES = ("module.", "_orig_mod.", "backbone.")
"""Prefixes of every name, of data-parallel, compiled and DINO's wrappers."""

INDEX = ".index.json"
"""End of the name of a file that says which files hold which arrays."""


_MOST_WRAPPED = 5


class ConvertError(JaxdmlError, ValueError):
  """A file that cannot become the encoder's weights; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class Card:
  """Origin of converted weights; card.json beside them."""

  arch: str  # the encoder, as `jaxdml.models.create` calls it
  source: str  # name of the file that was converted
  sha256: str  # of that file
  converter: str  # version of jaxdml that converted it
  classes: int  # outputs of the classifier kept beside the encoder; 0: none was in the file
  preprocessing: Preprocessing

  def to_json(self) -> dict[str, Any]:
    """Returns what `from_json` takes."""
    return dataclasses.asdict(self)

  @classmethod
  def from_json(cls, data: Any) -> Self:
    """Returns the card; ValueError, KeyError or TypeError for anything but what `to_json` gave."""
    fields = dict(data)
    pixels = dict(fields.pop("preprocessing"))
    pixels = {key: tuple(v) if isinstance(v, list) else v for key, v in pixels.items()}
    return cls(preprocessing=Preprocessing(**pixels), **fields)


def read(path: Path) -> State:
  """Returns a file's arrays by name: PyTorch's .pth, .pt or .bin, a .safetensors or an .npz.

  Of an index, such as model.safetensors.index.json, those of all files that it names. Wrappers such
  as {"state_dict": ...} are taken off, and prefixes such as "module.".

  Raises:
    ConvertError: not such a file, cut short, or in need of code to be read; or the library that
      reads it is not installed.
  """
  state: dict[str, np.ndarray] = {}
  for part in shards(path):
    state.update(_read_part(part))
  for prefix in PREFIXES:
    if state and all(name.startswith(prefix) for name in state):
      state = {name.removeprefix(prefix): array for name, array in state.items()}
  return state


def shards(path: Path) -> list[Path]:
  """Returns the files of arrays that `path` stands for: those that an index names, else itself.

  Raises ConvertError: the index cannot be read, or names files of another folder.
  """
  if not path.name.endswith(INDEX):
    return [path]
  try:
    names = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
    if not names or any(name != Path(name).name for name in names):
      raise ValueError("expected names of files beside it")
    return [path.with_name(name) for name in names]
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise ConvertError(
      f"{path}: expected an index of weights with a weight_map ({error}); copy or download it again"
    ) from error


def digest(path: Path) -> str:
  """Returns the SHA-256 of a file of weights; of an index, that of its files' digests in order."""
  digests = [_files.sha256(part) for part in shards(path)]
  return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _read_part(path: Path) -> State:
  reader = _READERS.get(path.suffix.lower())
  if reader is None:
    raise ConvertError(f"{path}: expected a file that ends in {', '.join(_READERS)}")
  if not path.is_file():
    raise ConvertError(f"{path}: no such file")
  if not path.stat().st_size:
    raise ConvertError(f"{path} is empty; copy or download it again")
  try:
    return reader(path)
  except OSError as error:
    raise ConvertError(f"cannot read {path}: {error.strerror or error}") from error


def _missing(library: str, path: Path, error: ImportError) -> ConvertError:
  return ConvertError(
    f"{path}: reading {path.suffix} needs {library} ({error}); pip install {library}, or "
    "pip install '.[convert]' where jaxdml is checked out"
  )


def _damaged(path: Path, error: Exception) -> ConvertError:
  reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
  return ConvertError(
    f"{path} is cut short, damaged or no {path.suffix} file at all ({reason}); copy or download it "
    "again"
  )


def _read_torch(path: Path) -> State:
  try:
    return state_dicts.read(path, functools.partial(_unwrap, path))
  except state_dicts.NeedsCodeError as error:
    name = str(error)
    if not name:
      raise ConvertError(
        f"{path} is a pickle that PyTorch did not write; reading it could run any code, so it is "
        "refused"
      ) from error
    raise ConvertError(
      f"{path} is a pickle that needs code to be read ({name}), which could do anything, so it is "
      "refused; where you trust it, make one of arrays alone: torch.save(model.state_dict(), FILE)"
    ) from error
  except state_dicts.TorchScriptError as error:
    raise ConvertError(f"{path} is a program in TorchScript; expected a state dict") from error
  except (ConvertError, OSError):
    raise
  except Exception as error:
    # A damaged archive or pickle shows as any of a dozen exceptions.
    raise _damaged(path, error) from error


def _unwrap(path: Path, content: Any) -> Mapping[str, state_dicts.Tensor]:
  for _ in range(_MOST_WRAPPED):
    if not isinstance(content, dict):
      break
    tensors = {str(k): v for k, v in content.items() if isinstance(v, state_dicts.Tensor)}
    if tensors:
      return tensors
    inner = [content[key] for key in WRAPPERS if isinstance(content.get(key), dict)]
    if not inner:
      break
    content = inner[0]
  kind = type(content).__name__
  found = f"keys {list(content)[:5]}"[:200] if isinstance(content, dict) else kind
  raise ConvertError(
    f"{path}: expected a state dict, arrays by name, perhaps within one of {', '.join(WRAPPERS)}; "
    f"found {found}"
  )


def _read_safetensors(path: Path) -> State:
  try:
    import safetensors
  except ImportError as error:
    raise _missing("safetensors", path, error) from error
  try:
    entries = safetensors.deserialize(path.read_bytes())
  except safetensors.SafetensorError as error:
    raise _damaged(path, error) from error
  arrays = {}
  for name, entry in entries:
    dtype = _SAFETENSORS_DTYPES.get(entry["dtype"])
    if dtype is None:
      raise ConvertError(f"{path}: {name} has the type {entry['dtype']}; expected floats")
    array = np.frombuffer(entry["data"], dtype).reshape(entry["shape"])
    arrays[name] = array.astype(np.float32) if array.dtype == ml_dtypes.bfloat16 else array
  return arrays


_SAFETENSORS_DTYPES = {
  "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
  "I64": np.int64, "I32": np.int32,
}  # fmt: skip


def _read_npz(path: Path) -> State:
  if not zipfile.is_zipfile(path):
    raise _damaged(path, ValueError("no zip archive"))
  try:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
      unpacked = sum(member.file_size for member in archive.zip.infolist())
      if unpacked > state_dicts.MOST_UNPACKED * path.stat().st_size:
        raise ConvertError(
          f"{path} unpacks to {unpacked:,} bytes, over {state_dicts.MOST_UNPACKED} times its own "
          "size, which weights never do; where you trust it, write its arrays anew by numpy.savez"
        )
      return {name: archive[name] for name in archive.files}
  except (ConvertError, OSError):
    raise
  except Exception as error:
    if isinstance(error, ValueError) and "pickle" in str(error):
      raise ConvertError(
        f"{path} holds Python objects, which need unpickling, and that can run any code: refused; "
        "save plain arrays alone, by numpy.savez(FILE, **arrays)"
      ) from error
    # A damaged header shows as any of a dozen exceptions, one that claims too much as MemoryError.
    raise _damaged(path, error) from error


_READERS: dict[str, Callable[[Path], State]] = {
  **dict.fromkeys((".pth", ".pt", ".bin"), _read_torch),
  ".safetensors": _read_safetensors, ".npz": _read_npz,
}  # fmt: skip
