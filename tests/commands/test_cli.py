"""The command line as a whole: help, mistakes, errors and Ctrl-C of every command."""

import argparse
import errno
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import jaxdml
from jaxdml import _files, commands, pretrained, search
from jaxdml.commands import _cli, _options, embed
from jaxdml.data import WorkerError
from jaxdml.drawing import batches, gallery
from jaxdml.errors import JaxdmlError
from jaxdml.inference import exporting
from jaxdml.report import _page
from jaxdml.training import loop
from jaxdml.training.runs import Evaluator
from tests.pretrained.published import published
from tests.search.helpers import make_workdir, write_images
from tests.training.conftest import data_dir as data_dir

ROOT = pathlib.Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
# What each command needs at least, wherever it points to.
NEEDED = {
  "train": ["--config=configs/default.py", "--workdir=x"],
  "plan": ["--config=configs/default.py", "--target=v5e"],
  "prepare": ["cars196", "--source=x"],
  "show": ["--config=configs/default.py"],
  "evaluate": ["--workdir=x"],
  "embed": ["--workdir=x", "--images=x", "--out=x"],
  "search": ["--embeddings=x", "--query=x"],
  "export": ["--workdir=x", "--out=x"],
  "report": ["--workdir=x"],
  "gallery": ["--workdir=x", "--out=x.png"],
  "convert": ["--arch=resnet18", "--source=x", "--out=x"],
}


def refused(capsys, argv, status=2):
  """The one line of a command that must end with this status."""
  assert commands.main([str(argument) for argument in argv]) == status
  printed = capsys.readouterr()
  assert printed.err.count("\n") == 1 and printed.err.startswith("error: ")
  assert printed.out == ""
  return printed.err


def test_the_list_of_commands_needs_no_jax():
  code = (
    "import sys; from jaxdml import commands; status = commands.main(['--help']); "
    "assert not {'jax', 'numpy', 'absl', 'matplotlib'} & set(sys.modules); sys.exit(status)"
  )
  done = subprocess.run(
    [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, env=ENVIRONMENT
  )
  assert done.returncode == 0, done.stderr
  assert re.findall(r"^  (\w+)  +[A-Z].+$", done.stdout, re.MULTILINE) == list(_cli.NAMES)


def test_every_file_is_a_command_or_is_not_for_users():
  files = {path.stem for path in pathlib.Path(_cli.__file__).parent.glob("*.py")}
  assert {name for name in files if not name.startswith("_")} == set(_cli.NAMES) == set(NEEDED)


def test_version(capsys):
  assert commands.main(["--version"]) == 0
  assert capsys.readouterr().out == f"jaxdml {jaxdml.__version__}\n"


@pytest.mark.parametrize("name", _cli.NAMES)
def test_help(name, capsys):
  assert commands.main([name, "--help"]) == 0
  text = capsys.readouterr().out
  assert text.startswith(f"usage: jaxdml {name} ") and _cli.load(name).summary in text
  assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("name", _cli.NAMES)
def test_a_wrong_option(name, capsys):
  near = {
    "prepare": "--overwrite",
    "plan": "--config",
    "train": "--workdir",
    "show": "--batches",
  }.get(name, "--out")
  wrong = near[:-1] + "x" + near[-1]
  error = refused(capsys, [name, *NEEDED[name], f"{wrong}=1"])
  assert f"unknown option {wrong}; did you mean {near}?" in error
  assert f"see jaxdml {name}" in error
  missing = refused(capsys, [name])
  assert "required" in missing and f"see jaxdml {name} --help" in missing


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    (["evalute"], "unknown command 'evalute'; did you mean evaluate?; expected one of train, "),
    ([], "expected a command, one of train, plan, prepare, "),
    (["--workdir=x"], "unknown command '--workdir=x'; expected one of"),
    (["report", "--workdir=x", "--k=many"], "--k: expected a whole number of at least 1, got 'm"),
    (["report", "--workdir=x", "--k=0"], "--k: expected a whole number of at least 1, got '0'"),
    (["report", "x"], "--workdir"),
    (["report", "--workdir=x", "y"], "y: expected an option such as --NAME=VALUE"),
    (["report", "--wrokdir=x"], "unknown option --wrokdir; did you mean --workdir?"),
    (["train", "--config=x", "--wrokdir=x"], "unknown option --wrokdir; did you mean --workdir?"),
    (["prepare", "image_folder", "--src=x", "--name=x"], "unknown option --src"),
    (["prepare", "--source=x"], "the following arguments are required: NAME"),
    (["report", "--workdir=x", "--seed=-1"], "--seed: expected a whole number of at least 0"),
    (["export", "--workdir=x", "--out=x", "--tolerance=-1"], "--tolerance: expected a number of"),
    (["export", "--workdir=x", "--out=x", "--tolerance=nan"], "--tolerance: expected a number of"),
    (["export", "--workdir=x", "--out=x", "--batch_size=all"], "got 'all'; or dynamic"),
    (
      ["embed", "--workdir=x", "--images=x", "--out=x", "--max_bad_images=7"],
      "--max_bad_images: expected a number from 0 to 1, got '7'",
    ),
    (
      ["prepare", "image_folder", "--source=x", "--name=x", "--max_side=0"],
      "--max_side: expected a whole number of at least 1, got '0'",
    ),
    (
      ["prepare", "image_folder", "--source=x", "--name=x", "--test_share=2"],
      "from 0 to 1, got '2'",
    ),
    (["prepare", "cars"], "NAME"),
    (["convert", "--arch=resnet19", "--source=x", "--out=x"], "did you mean resnet1"),
    (["embed", "--workdir=x", "--out=x"], "one of the arguments --images --dataset is required"),
    (["report", "--workdir=x", "--out=x.pdf"], "--out: expected a name that ends in .html or .htm"),
    (["gallery", "--workdir=x", "--out=x.gif"], "--out: expected a name that ends in .png, .pdf o"),
    (["show", "--config=configs/default.py", "--out=b"], "--out: expected a name that ends in .pn"),
  ],
)
def test_mistakes(argv, message, capsys):
  assert message in refused(capsys, argv)


def test_lists_are_given_one_by_one_or_together():
  parser = _cli.Parser()
  _options.add(parser, "query")
  _options.add(parser, "format")
  args = parser.parse_args(["--query=a", "--query", "b", "c", "--format=x", "--format=y"])
  assert [path.name for path in args.query] == ["a", "b", "c"] and args.format == ["x", "y"]


class Broke(JaxdmlError):
  """Something that no change of the command mends."""

  exit_status = 1


@pytest.mark.parametrize(
  ("error", "status", "line"),
  [
    (JaxdmlError("give another --out"), 2, "error: give another --out\n"),
    (Broke("the loss is NaN"), 1, "error: the loss is NaN\n"),
    (WorkerError("a worker died"), 1, "error: a worker died\n"),
    (loop.NonFiniteError("step 3"), 1, "error: step 3\n"),
    (exporting.MismatchError("differ"), 1, "error: differ\n"),
    (OSError(errno.ENOSPC, "No space left"), 1, "error: --out=/a/b: No space left\n"),
    (OSError(errno.EACCES, "Denied", "/a/b"), 2, "error: --out=/a/b: Denied\n"),
    (OSError(errno.EACCES, "Denied", "/c/d/e"), 2, "error: --source=/c/d: Denied: /c/d/e\n"),
    (OSError(errno.ENOENT, "No such file", "/f"), 2, "error: /f: No such file\n"),
    (ValueError("k: expected at least 1"), 2, "error: --k: expected at least 1\n"),
    (ValueError("labels: expected [n]"), 2, "error: labels: expected [n]\n"),
    (KeyboardInterrupt(), 130, "interrupted; the same command goes on\n"),
  ],
)
def test_an_error_is_one_line(error, status, line, capsys):
  def work():
    raise error

  args = argparse.Namespace(out=pathlib.Path("/a/b"), source="/c/d", k=0, label=None)
  done = commands.guard(work, args, resumes="goes on", user_errors=(ValueError,))
  assert (done, capsys.readouterr().err) == (status, line)


def test_a_fault_of_ours_keeps_its_traceback():
  def work():
    raise ValueError("shapes")

  with pytest.raises(ValueError, match="shapes"):
    commands.guard(work)
  assert commands.guard(lambda: None) == 0 and commands.guard(lambda: 1) == 1
  assert _cli.load("train").user_errors == ()


@pytest.mark.parametrize(
  ("number", "status", "line"),
  [
    (signal.SIGINT, 130, "interrupted; the same command goes on\n"),
    (signal.SIGTERM, 143, "terminated; the same command goes on\n"),
  ],
)
def test_a_second_signal_lets_the_work_be_tidied_up(number, status, line, tmp_path, capfd):
  """The first one ends the work; a half-written page goes whatever comes meanwhile."""
  both = (signal.SIGINT, signal.SIGTERM)
  found = [signal.getsignal(n) for n in both]
  before = [signal.default_int_handler, signal.SIG_DFL]  # as in a shell's foreground
  for n, handler in zip(both, before, strict=True):
    signal.signal(n, handler)

  def work():
    with _files.replacing(tmp_path / "r.html") as temporary:
      temporary.write_text("half of it")
      try:
        signal.raise_signal(number)
      finally:
        signal.raise_signal(signal.SIGINT)

  try:
    assert commands.guard(work, resumes="goes on") == status
    assert [signal.getsignal(n) for n in both] == before
  finally:
    for n, handler in zip(both, found, strict=True):
      signal.signal(n, handler)
  assert capfd.readouterr().err == f"still tidying up; once more leaves at once\n{line}"
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_that_python_drops_comes_again(number, status, capfd):
  found = signal.getsignal(number)
  signal.signal(number, {130: signal.default_int_handler, 143: signal.SIG_DFL}[status])

  class Dropped:
    def __del__(self):
      signal.raise_signal(number)

  def work():
    Dropped()
    time.sleep(20)

  try:
    assert commands.guard(work) == status
  finally:
    signal.signal(number, found)
  assert capfd.readouterr().err in ("interrupted\n", "terminated\n")


def test_ctrl_c_while_the_last_line_is_written(monkeypatch, capfd):
  previous = signal.signal(signal.SIGINT, signal.default_int_handler)
  monkeypatch.setattr(_cli, "printable", lambda text: signal.raise_signal(signal.SIGINT) or text)

  def work():
    raise KeyboardInterrupt  # of the trainer, say, which takes signals itself

  try:
    assert commands.guard(work) == 130
  finally:
    signal.signal(signal.SIGINT, previous)
  assert capfd.readouterr().err == "still tidying up; once more leaves at once\ninterrupted\n"


def test_a_signal_that_is_to_be_ignored_is(capfd):
  previous = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as nohup and shells' jobs do
  try:
    assert commands.guard(lambda: signal.raise_signal(signal.SIGINT)) == 0
  finally:
    signal.signal(signal.SIGINT, previous)
  assert capfd.readouterr().err == ""


def test_no_name_steers_the_terminal(capsys):
  name = "a\x1b]0;owned\x07\x1b[2J.png"

  def work():
    _cli.left_out([(name, "no\nimage\x1b[31m")] * 7, place="/out/\x9b31m")
    _cli.note(name)
    raise JaxdmlError(f"{name}: cannot be read\n  of two lines")

  assert commands.guard(work) == 2
  said = capsys.readouterr().err
  assert all(c.isprintable() or c == "\n" for c in said) and said.count("\n") == 9
  assert "left out: a[U+001B]]0;owned[U+0007][U+001B][2J.png: no[U+000A]image[U+001B][31m\n" in said
  assert "left out: 2 more, all named in /out/[U+009B]31m\nnote: a[U+001B]" in said
  file = OSError(errno.EACCES, "Denied", f"/d/{name}")
  assert commands.guard(lambda: (_ for _ in ()).throw(file)) == 2
  assert "\x1b" not in capsys.readouterr().err


@pytest.fixture(scope="module")
def workdir(data_dir, tmp_path_factory):
  return make_workdir(tmp_path_factory.mktemp("runs") / "run", data_dir)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
  return write_images(tmp_path_factory.mktemp("photos"), ["cat/1.png", "cat/2.png"])


# The command, and what Ctrl-C meets while it works.
INTERRUPTED = {
  "plan": (["--config={digits}", "--target=v5e"], ("jaxdml.planning.plans", "plan")),
  "prepare": (["digits"], ("jaxdml.data.bundled", "encode_png")),
  "show": (["--config={digits}", "--batches=1"], (batches, "_cell")),
  "evaluate": (["--workdir={workdir}"], (Evaluator, "score")),
  "embed": (["--workdir={workdir}", "--images={photos}", "--out={tmp}/e"], (embed, "_tell")),
  "search": (
    ["--workdir={workdir}", "--images={photos}", "--query={photos}"],
    (search, "format_results"),
  ),
  "export": (["--workdir={workdir}", "--out={tmp}/x"], (exporting, "_put")),
  "report": (["--workdir={workdir}"], (_page, "_document")),
  "gallery": (["--workdir={workdir}", "--out={tmp}/x.png"], (gallery, "draw_neighbours")),
  "convert": (
    ["--arch=resnet18", "--source={tmp}/r.npz", "--out={tmp}/w"],
    (pretrained, "save"),
  ),
}


@pytest.mark.parametrize("name", INTERRUPTED)
def test_ctrl_c(name, workdir, photos, data_dir, tmp_path, monkeypatch, capsys):
  argv, (owner, attribute) = INTERRUPTED[name]
  config = tmp_path / "digits.py"
  config.write_text(
    "from tests.training.test_loop import digits_config\n"
    f"get_config = lambda: digits_config({data_dir!r})\n"
  )
  if name == "convert":
    np.savez(tmp_path / "r.npz", **published("resnet18"))
  if name == "prepare":
    argv = [*argv, f"--data_dir={tmp_path / 'tfds'}"]
  met = []

  def interrupt(*args, **kwargs):
    met.append(name)
    raise KeyboardInterrupt

  target = (f"{owner}.{attribute}",) if isinstance(owner, str) else (owner, attribute)
  monkeypatch.setattr(*target, interrupt)
  places = {"workdir": workdir, "photos": photos, "tmp": tmp_path, "digits": config}
  assert commands.main([name, *(argument.format(**places) for argument in argv)]) == 130
  printed = capsys.readouterr()
  assert met == [name]
  resumes = {"prepare": "; the same command goes on from here",
             "embed": "; the same command goes on where it stopped"}  # fmt: skip
  assert printed.err.endswith(f"interrupted{resumes.get(name, '')}\n"), printed.err
  assert "Traceback" not in printed.err


@pytest.mark.slow
def test_a_real_ctrl_c_in_show(data_dir, tmp_path):
  started = tmp_path / "started"
  config = tmp_path / "digits.py"
  config.write_text(
    "import pathlib\nfrom tests.training.test_loop import digits_config\n"
    f"pathlib.Path({str(started)!r}).touch()\n"
    f"get_config = lambda: digits_config({data_dir!r})\n"
  )
  process = subprocess.Popen(
    [sys.executable, "-W", "ignore", "-m", "jaxdml", "show", f"--config={config}",
     "--batches=1000000", f"--out={tmp_path / 'batch.png'}"],
    env=ENVIRONMENT, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
  )  # fmt: skip
  deadline = time.time() + 120
  while not started.exists():
    assert process.poll() is None and time.time() < deadline
    time.sleep(0.05)
  time.sleep(1)
  process.send_signal(signal.SIGINT)
  out, error = process.communicate(timeout=60)
  assert (process.returncode, out) == (130, "")
  assert error.splitlines()[-1] == "interrupted" and "Traceback" not in error
  assert not (tmp_path / "batch.png").exists()
