# Run this cell first. It installs jaxdml, whatever machine this is, and leaves its JAX as it is.
import importlib
import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys
import tempfile

URL = "https://github.com/jaxdml/jaxdml"
NEEDS_JAX = "0.10.0"  # or newer


def stop(message):
  """Ends the cell with one line."""
  raise SystemExit(message)


def accelerator_packages():
  """Name to version of what is installed of JAX: what Colab chose for its chips."""
  found = {d.name.lower().replace("_", "-"): d.version for d in importlib.metadata.distributions()}
  return {name: v for name, v in found.items() if re.match(r"(jax|jaxlib|libtpu.*|jax-.*)$", name)}


def install(*requirements):
  """Runs pip on them, under constraints: no package of JAX that is here may change."""
  kept = accelerator_packages()
  with tempfile.TemporaryDirectory() as folder:
    constraints = pathlib.Path(folder, "constraints.txt")
    constraints.write_text("".join(f"{name}=={version}\n" for name, version in kept.items()))
    command = [sys.executable, "-m", "pip", "install", "-q", "-c", str(constraints)]
    done = subprocess.run([*command, *requirements], capture_output=True, text=True)
  importlib.invalidate_caches()
  if done.returncode:
    lines = [line for line in done.stderr.splitlines() if re.match("ERROR|fatal|error", line)]
    why = (lines or done.stderr.splitlines() or ["pip said nothing"])[0]
    stop(f"Could not install {' '.join(requirements)}: {why}")


here = accelerator_packages()
if importlib.util.find_spec("jaxdml") is None:
  numbers = lambda version: [int(n) for n in re.findall(r"\d+", version)[:3]]  # no "10" < "9"
  if "jax" in here and numbers(here["jax"]) < numbers(NEEDS_JAX):
    chip = [f"[{m[0]}]" for name in here if (m := re.search(r"tpu|cuda1\d", name))][:1]
    stop(
      f"jaxdml needs jax {NEEDS_JAX} or newer and this machine has {here['jax']}. Run\n"
      f'  %pip install -U "jax{"".join(chip)}"\n'
      "in a new cell, choose Runtime -> Restart session, and run this cell again."
    )
  source = ".." if os.path.exists("../setup.cfg") else f"git+{URL}"
  print(f"Installing jaxdml from {source}, a minute or two ...", flush=True)
  numpy = sys.modules.get("numpy")
  install(source)
  if numpy and numpy.__version__ != importlib.metadata.version("numpy"):
    stop("numpy was loaded and is a newer one now: Runtime -> Restart session, then run this again")

# Runs are kept on Google Drive where there is one, as Colab's own disk goes with the runtime.
on_colab = "google.colab" in sys.modules
WORK = pathlib.Path(os.environ.get("JAXDML_WORK", "jaxdml_work")).absolute()
os.environ["JAXDML_WORK"] = str(WORK)  # the same when the cell runs again
if on_colab:
  from google.colab import drive

  try:
    drive.mount("/content/drive")
    WORK = pathlib.Path("/content/drive/MyDrive/jaxdml")
  except Exception as error:  # refused, or no such account: each has an exception of its own
    print(f"Warning: Drive is not mounted ({error}); what you train is lost with this runtime.")
WORK.mkdir(parents=True, exist_ok=True)
os.chdir(WORK)  # paths below are relative to it

import jax

kinds = sorted({device.device_kind for device in jax.devices()})
print(f"jax {jax.__version__} on {jax.device_count()} x {', '.join(kinds)}")
# On a CPU, and in tests, the same cells run on less.
SMALL = jax.default_backend() == "cpu" or os.environ.get("JAXDML_SMALL") == "1"
if on_colab and jax.default_backend() == "cpu":
  print("Only a CPU: choose Runtime -> Change runtime type -> a TPU or T4 GPU for the real sizes.")
