"""A trained model as files that need no jaxdml: StableHLO, ONNX, and a card that describes them.

The exported function takes uint8 images as `TrainedModel.preprocess` gives them and returns
embeddings, of length 1 if they are ranked by cosines; the pixels' normalisation is inside. Every
file is read back and compared with the model before it is put where it is asked for.
"""

import importlib.metadata
import json
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdml import _files
from jaxdml._version import __version__
from jaxdml.data.decode import FORMATS as IMAGE_FORMATS
from jaxdml.errors import JaxdmlError
from jaxdml.inference import _onnx
from jaxdml.inference.trained_model import CARD, STABLEHLO, TrainedModel
from jaxdml.training.workdir import read_results
from jaxdml.types import Array

FORMATS = {"stablehlo": STABLEHLO, "onnx": "model.onnx"}
"""Format -> its file in the folder."""

PLATFORMS = ("cpu", "cuda", "tpu")
"""Platforms that the StableHLO file runs on."""


class ExportError(JaxdmlError, RuntimeError):
  """A model that cannot be exported so; the message says why and what to do."""


class MismatchError(ExportError):
  """An exported file gives other embeddings than the model; nothing is kept of it."""

  exit_status = 1


def export(
  model: TrainedModel, out: str | os.PathLike[str], *, formats: Sequence[str] = ("stablehlo",),
  batch: int | None = None, images: np.ndarray | None = None, tolerance: float = 1e-4,
) -> dict[str, Any]:  # fmt: skip
  """Writes a model into a folder, in each format, with a card (`model_card.json`).

  Args:
    model: as `inference.load` gives it, from a run's workdir.
    out: the folder, made if needed; an earlier export in it is replaced, when all is well.
    formats: of `FORMATS`.
    batch: images a call; None leaves their number open.
    images: to compare the files and the model on, uint8 [n, h, w, c] as `model.preprocess` gives
      them; by default 8 of random pixels.
    tolerance: largest difference of an embedding's value, relative to the largest value if that
      is above 1.

  Returns:
    The card; its "largest_difference" is what was measured, by format, its "sha256" of each file.

  Raises:
    ValueError: an unknown format, a batch below 1, images of another shape.
    ExportError: the folder holds other files, a package is missing, or an operation of the encoder
      has no counterpart in the format.
    MismatchError: a file gives other embeddings than the model.
  """
  out = pathlib.Path(out)
  unknown = [name for name in formats if name not in FORMATS]
  if unknown or not formats:
    raise ValueError(f"formats: expected some of {', '.join(FORMATS)}; got {', '.join(unknown)!r}")
  if batch is not None and batch < 1:
    raise ValueError(f"batch: expected at least 1, or None for any number; got {batch}")
  if not model.variables:
    raise ExportError(f"{model.workdir} is an export already; give the workdir of the run")
  _check_folder(out)
  random = images is None
  if images is None:
    shape = (8, *model.image_shape)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
  expected = _scaled(np, model, model.embed_batch(images))
  if not len(images) or not np.isfinite(expected).all():
    raise ExportError(
      f"the model gives no finite embeddings of the {len(images)} images to compare on"
    )
  card = _describe(model, batch)
  kind = "images of random pixels" if random else "given images"
  card |= {"largest_difference": {}, "compared_on": f"{len(images)} {kind}", "sha256": {}}
  out.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
    for name in formats:
      path = pathlib.Path(folder) / FORMATS[name]
      write, read = _WRITERS[name]
      write(model, path, batch)
      got = _in_batches(read(path), images, batch)
      difference = float(np.abs(got - expected).max() / max(np.abs(expected).max(), 1))
      if not difference <= tolerance:  # NaN is not.
        raise MismatchError(
          f"{name}: embeddings differ from the model's by up to {difference:.3g}, more than "
          f"{tolerance:g}; nothing was written to {out}"
        )
      card["largest_difference"][name] = difference
      card["sha256"][path.name] = _files.sha256(path)
    card = _files.seal(card)
    _files.write_json(pathlib.Path(folder) / CARD, card)
    _put(pathlib.Path(folder), out)
  return card


def _scaled(xp: Any, model: TrainedModel, z: Array) -> Array:
  """Rows of length 1, but where a distance ranks that knows their length; a zero stays zero.

  `xp` is numpy or jax.numpy.
  """
  if model.distance_fn is not None:
    return z
  square = xp.square(z).sum(-1, keepdims=True)
  return z / xp.sqrt(xp.where(square > 0, square, 1.0))


def _function(model: TrainedModel) -> Callable[[Array], Array]:
  return lambda images: _scaled(jnp, model, model.embed(model.variables, images))


def _write_stablehlo(model: TrainedModel, path: pathlib.Path, batch: int | None) -> None:
  first = jax.export.symbolic_shape("batch")[0] if batch is None else batch
  spec = jax.ShapeDtypeStruct((first, *model.image_shape), np.uint8)
  exported = jax.export.export(jax.jit(_function(model)), platforms=PLATFORMS)(spec)
  try:
    path.write_bytes(exported.serialize())
  except ImportError as error:
    raise _missing("flatbuffers", error) from error


def _read_stablehlo(path: pathlib.Path) -> Callable[[np.ndarray], np.ndarray]:
  return jax.export.deserialize(bytearray(path.read_bytes())).call


def _write_onnx(model: TrainedModel, path: pathlib.Path, batch: int | None) -> None:
  try:
    graph = _onnx.convert(
      _function(model), (batch, *model.image_shape), np.uint8, name=model.config.encoder.name
    )
  except _onnx.UnsupportedError as error:
    raise ExportError(
      f"{error}, in encoder.name={model.config.encoder.name}; StableHLO takes every encoder: "
      "--format=stablehlo"
    ) from error
  except ImportError as error:
    raise _missing("onnx", error) from error
  path.write_bytes(graph.SerializeToString())


def _read_onnx(path: pathlib.Path) -> Callable[[np.ndarray], np.ndarray]:
  try:
    import onnxruntime
  except ImportError as error:
    raise _missing("onnxruntime", error) from error
  session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
  return lambda images: session.run(["embeddings"], {"images": images})[0]


_WRITERS = {"stablehlo": (_write_stablehlo, _read_stablehlo), "onnx": (_write_onnx, _read_onnx)}


def _missing(package: str, error: ImportError) -> ExportError:
  return ExportError(
    f"the package {package} is not installed ({error}); it comes with the extra: "
    "pip install 'jaxdml[export]'"
  )


def _in_batches(
  function: Callable[[np.ndarray], Any], images: np.ndarray, batch: int | None
) -> np.ndarray:
  size = batch or len(images)
  rest = -len(images) % size
  filled = np.concatenate([images, images[:1].repeat(rest, axis=0)])
  parts = [np.asarray(function(filled[i : i + size])) for i in range(0, len(filled), size)]
  return np.concatenate(parts)[: len(images)]


def _describe(model: TrainedModel, batch: int | None) -> dict[str, Any]:
  """The card but for what was measured."""
  normalize, data = model.preprocessing.normalize, model.config.data
  height, width, channels = model.image_shape
  return {
    "fingerprint": model.fingerprint,
    "dimension": model.dimension,
    "step": model.step,
    "encoder": model.config.encoder.name,
    "input": {
      "name": "images",
      "shape": [batch or "batch", height, width, channels],
      "dtype": "uint8",
      "channels": "RGB" if channels == 3 else "grey",
      "preprocess": data.preprocess,
      "before": _before(model),
      "decodes": list(IMAGE_FORMATS),
      "normalised_inside": {
        "scale": normalize.scale,
        "mean": list(normalize.mean),
        "std": list(normalize.std),
        "order": "BGR" if normalize.bgr else "RGB" if channels == 3 else "grey",
      },
    },
    "output": {"name": "embeddings", "shape": [batch or "batch", model.dimension],
               "dtype": "float32", "length": None if model.distance_fn else 1,
               "ranked_by": getattr(model.distance_fn, "name", "cosine"),
               "options": dict(model.config.loss.distance_options) if model.distance_fn else {}},
    "platforms": list(PLATFORMS),
    "versions": {
      "jaxdml": __version__,
      "python": sys.version.split()[0],
      **{name: importlib.metadata.version(name) for name in ("jax", "flax", "numpy")},
    },
    "metrics": read_results(model.workdir) or {},
    "config": json.loads(json.dumps(model.config.to_dict())),
  }  # fmt: skip


def _before(model: TrainedModel) -> list[str]:
  """Steps of the caller before the program, in words and numbers: those of `data.preprocess`."""
  height, width, channels = model.image_shape
  mode = "RGB" if channels == 3 else "8-bit grey"
  steps = [
    "decode, turn upright by the EXIF orientation, lay transparent pixels on white, "
    f"convert to {mode}"
  ]
  _, side, *_ = model.preprocessing.load.args  # of the resize
  kind = model.config.data.interpolation or "bilinear"
  if model.config.data.preprocess == "standard":
    steps.append(f"resize the shorter side to {side} pixels, keeping the aspect")
  else:
    steps.append(f"resize to {side} x {side} pixels, whatever the aspect")
  steps[-1] += f"; {kind}, antialiased where it shrinks: close to Pillow's {kind.upper()}"
  if model.config.data.preprocess in ("hdml", "standard"):
    steps.append(f"cut out the middle {height} x {width} pixels")
  return steps


def _check_folder(out: pathlib.Path) -> None:
  if out.is_dir():
    others = sorted({p.name for p in out.iterdir()} - {CARD, *FORMATS.values()})
    if others:
      raise ExportError(f"{out} holds other files ({', '.join(others[:3])}); name a new folder")
  elif out.exists():
    raise ExportError(f"{out} is a file; name a folder")


def _put(folder: pathlib.Path, out: pathlib.Path) -> None:
  """Moves the files into `out`, the card last: with it an export is whole."""
  out.mkdir(exist_ok=True)
  for name in (CARD, *FORMATS.values()):
    (out / name).unlink(missing_ok=True)
  for name in (*FORMATS.values(), CARD):
    if (folder / name).exists():
      shutil.move(folder / name, out / name)
