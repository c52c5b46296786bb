"""Images a second of every encoder: jaxdml and PyTorch (torchvision, timm, pretrainedmodels).

  python benchmarks/encoders.py                                   # what suits the machine
  python benchmarks/encoders.py --only resnet50 --batch 128 --size 224 --dtype bfloat16 --write

Forward in evaluation mode; forward and backward of a margin loss over the batch in training mode;
and for jaxdml the whole training step (uint8 images to new parameters, Adam, an embedding), the
data pipeline left out. PyTorch runs channels last, eager and through torch.compile, in autocast
where the type is bfloat16; the faster of the two counts. Every figure is the fastest of several
calls after warm-up in a process of its own, whose peak memory is taken: that of the accelerator,
or of the whole process on a CPU. --write puts the table into docs/benchmarks.md. Needs the extra
[parity].
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys

import _encoders_measure
import _machine
import _page

ROOT = pathlib.Path(__file__).resolve().parent.parent
PASSES = ("forward", "backward", "train")


def parse() -> argparse.Namespace:
  """The command line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  names = _encoders_measure.NAMES
  parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
  parser.add_argument("--passes", nargs="+", choices=PASSES, default=list(PASSES), help="(all)")
  parser.add_argument("--batch", type=int, help="images (128 on a GPU, 8 on a CPU)")
  parser.add_argument("--size", type=int, default=224, help="of a side (%(default)s)")
  parser.add_argument(
    "--dtype", choices=["float32", "bfloat16"], help="(bfloat16 on a GPU, float32 on a CPU)"
  )
  parser.add_argument("--peers", nargs="*", default=["eager", "compiled"], help="(%(default)s)")
  parser.add_argument("--marker", default="encoders", help="of the table in the docs")
  parser.add_argument("--json", type=pathlib.Path, help="append every figure to this file")
  parser.add_argument("--write", action="store_true", help="replace the table in the docs")
  return parser.parse_args()


def child(*words: str) -> dict | None:
  """One measurement in a process of its own; None if that failed, and why on stderr."""
  path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH")) if p)
  run = subprocess.run(
    [sys.executable, str(ROOT / "benchmarks" / "_encoders_measure.py"), *words],
    capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": path},
  )  # fmt: skip
  if run.returncode:
    reason = (run.stderr.strip().splitlines() or [f"exit code {run.returncode}"])[-1]
    print(f"{' '.join(words)}: {reason}", file=sys.stderr)
    return None
  return json.loads(run.stdout.splitlines()[-1])


def row(args: argparse.Namespace, name: str, kind: str) -> str:
  """One line of the table: an encoder and a pass."""
  sizes = (str(args.batch), str(args.size), args.dtype)
  libraries = ["jaxdml"]
  if kind != "train" and _encoders_measure.PEERS[name]:
    libraries += args.peers
  found = {library: child(library, kind, name, *sizes) for library in libraries}
  if args.json:
    with args.json.open("a") as file:
      file.write(json.dumps({"encoder": name, "pass": kind, "sizes": sizes, **found}) + "\n")
  ours = found.pop("jaxdml")
  if ours is None:
    raise SystemExit(f"jaxdml failed on {name}, {kind}")
  rate = lambda figures: f"{args.batch / figures['seconds']:,.1f}" if figures else "-"
  peers = [rate(found.get(library)) for library in ("eager", "compiled")]
  finished = [figures for figures in found.values() if figures]
  ratio, memory = "-", "-"
  if finished:
    best = min(finished, key=lambda figures: figures["seconds"])
    ratio, memory = f"{best['seconds'] / ours['seconds']:.2f}x", f"{best['peak_mb']:,.0f}"
  cells = [f"`{name}`", kind, rate(ours), *peers, ratio, f"{ours['peak_mb']:,.0f}", memory]
  return f"| {' | '.join(cells)} | {ours['compile_seconds']:.0f} |"


def main() -> None:
  """Measures, prints and, if asked, writes the table."""
  args = parse()
  found = child("platform")
  if found is None:
    raise SystemExit("JAX does not start here")
  on_gpu = found["jax"] != "cpu"
  if args.peers and found["torch"] != ("gpu" if on_gpu else "cpu"):
    print(f"no fair peer: JAX on {found['jax']}, PyTorch on {found['torch']}", file=sys.stderr)
    args.peers = []
  args.batch = args.batch or (128 if on_gpu else 8)
  args.dtype = args.dtype or ("bfloat16" if on_gpu else "float32")
  lines = [
    "| encoder | pass | jaxdml images/s | PyTorch eager | compiled | to the faster one | "
    "jaxdml MB | PyTorch MB | compile s |",
    "|---|---|---|---|---|---|---|---|---|",
  ]
  print("\n".join(lines))
  for name in args.only or _encoders_measure.NAMES:
    for kind in args.passes:
      lines.append(row(args, name, kind))
      print(lines[-1], flush=True)
  libraries = ("torch", "torchvision", "timm") if args.peers else ()
  # Last: JAX takes an accelerator's memory once it starts.
  lines += ["", f"Batch {args.batch}, {args.size} pixels, {args.dtype}; "]
  lines[-1] += _machine.describe(*libraries) + "."
  print(lines[-1])
  if args.write:
    _page.write(args.marker, "\n".join(lines))


if __name__ == "__main__":
  main()
