"""Embeds a folder of images or a data set with a trained model, into a folder of Parquet shards.

jaxdml embed --workdir=runs/glyphs --images=photos --out=embeddings
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
  """Embeds, or goes on where a killed command stopped; returns the exit status."""
  parser = argparse.ArgumentParser(
    prog="jaxdml embed",
    description="Embeds images with a trained model into Parquet shards: path, label, embedding. "
    "Killed and given again it goes on at the first missing shard.",
  )
  parser.add_argument("--workdir", required=True, help="of a run of python -m jaxdml.main")
  images = parser.add_mutually_exclusive_group(required=True)
  images.add_argument("--images", help="a folder of images, searched at any depth")
  images.add_argument("--dataset", help="or a data set: glyphs, tfds:NAME, image_folder/NAME, ...")
  parser.add_argument("--split", default="test", help="of the data set (test)")
  parser.add_argument("--label", default=None, help="column of the data set; default: its own")
  parser.add_argument("--data_dir", default=None, help="TFDS data directory; default: the run's")
  parser.add_argument("--out", required=True, help="folder for the shards")
  parser.add_argument("--shard_size", type=int, default=8192, help="images a shard (8192)")
  parser.add_argument("--batch_size", type=int, default=256, help="images a batch (256)")
  parser.add_argument(
    "--num_workers", type=int, default=None,
    help="processes that decode, 0: a thread; default: the run's data.num_workers",
  )  # fmt: skip
  parser.add_argument(
    "--max_bad_images", type=float, default=None,
    help="share of images that may be unreadable; default: the run's data.max_bad_images",
  )  # fmt: skip
  parser.add_argument(
    "--multihost", action="store_true",
    help="join the other hosts first (TPU pods, Slurm); each writes its own shards into --out",
  )  # fmt: skip
  args = parser.parse_args(argv)
  # After parsing, so that --help does not wait for JAX.
  import jax

  from jaxdml import data, inference, search
  from jaxdml.training import checkpoints
  from jaxdml.training import config as config_lib

  if args.multihost:
    jax.distributed.initialize()
  try:
    source = None if args.images is None else search.FolderImages.open(args.images)
    trained = inference.load(args.workdir, data_dir=args.data_dir)
    for remark in trained.remarks:
      print(f"note: {remark}", file=sys.stderr)
    keys = trained.config.data
    if source is None:
      source = search.DatasetImages.open(
        args.dataset, args.split, label=args.label, data_dir=keys.data_dir or None
      )
    share = keys.max_bad_images if args.max_bad_images is None else args.max_bad_images
    summary = search.embed_images(
      trained,
      source,
      args.out,
      shard_size=args.shard_size,
      batch_size=args.batch_size,
      num_workers=keys.num_workers if args.num_workers is None else args.num_workers,
      max_bad_images=share,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
    )
  except (
    checkpoints.CheckpointError, config_lib.ConfigError, data.DatasetNotPreparedError,
    data.ImageDecodeError, data.WorkerError, search.SearchError, OSError, ValueError,
  ) as error:  # fmt: skip
    print(f"error: {error}", file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print("interrupted; the same command goes on where it stopped", file=sys.stderr)
    return 130
  report(summary, args.out)
  return 0


def report(summary, out: str) -> None:
  """Prints what was embedded, and names what was left out."""
  for file, reason in summary.skipped[:5]:
    print(f"left out: {file}: {reason}", file=sys.stderr)
  if len(summary.skipped) > 5:
    print(f"left out: {len(summary.skipped) - 5} more, all named in {out}", file=sys.stderr)
  wrote = f"wrote {summary.written} of {summary.shards} shards to {out}"
  if not summary.finished:
    print(f"{wrote}; the others are for the other hosts")
    return
  left_out = f", unreadable images left out: {len(summary.skipped)}" if summary.skipped else ""
  print(f"{wrote}, which is finished{left_out}")


if __name__ == "__main__":
  sys.exit(main())
