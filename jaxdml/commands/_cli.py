"""The commands by name, and the one way in which any of them ends."""

import argparse
import difflib
import errno
import importlib
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn, Self

from jaxdml._text import printable
from jaxdml._version import __version__
from jaxdml.errors import JaxdmlError

NAMES = (
  "train", "plan", "prepare", "show", "evaluate", "embed", "search", "export", "report", "gallery",
  "convert",
)  # fmt: skip
"""Each is a module of this package with a `COMMAND`; this is the order of `jaxdml --help`."""

# What the machine lacks or lost, however right the command was.
_BROKEN = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ENOMEM, errno.EMFILE}


class UsageError(JaxdmlError):
  """A command line that cannot be run as it stands; the message names the option."""


class Command(NamedTuple):
  """A command as the command line knows it."""

  summary: str  # its line in `jaxdml --help`
  add_options: Callable[["Parser"], None]  # into a parser; nothing heavy is imported before
  run: Callable[[argparse.Namespace], int | None]  # does the work; the exit status, None for 0
  resumes: str = ""  # what giving the same command again does after Ctrl-C, if not all anew
  # Exceptions of the work that say what to change, besides those of the package.
  user_errors: tuple[type[Exception], ...] = (ValueError,)


class Parser(argparse.ArgumentParser):
  """The parser of a command: no abbreviations, and mistakes raise `UsageError`.

  With `overrides` it also takes --config.KEY=VALUE, as `args.overrides`.
  """

  overrides = False

  def __init__(self, **options: Any):
    options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
    super().__init__(allow_abbrev=False, **options)

  def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
    """Parses all arguments: there are no unknown ones to return."""
    arguments, overrides = list(args or []), []
    if self.overrides:
      arguments, overrides = split_overrides(arguments)
    self._given = arguments
    namespace, unknown = super().parse_known_args(arguments, namespace)
    if unknown:
      name = unknown[0].partition("=")[0]
      if not name.startswith("-"):
        raise UsageError(f"{unknown[0]}: expected an option such as --NAME=VALUE")
      self._refuse(name)
    if self.overrides:
      namespace.overrides = overrides
    return namespace, []

  def _names(self) -> list[str]:
    return re.findall(r"--\w+", self.format_usage())

  def _refuse(self, name: str) -> NoReturn:
    hint = nearest(name, self._names())
    raise UsageError(f"unknown option {name}{hint}; see {self.prog} --help")

  def error(self, message: str) -> NoReturn:
    """Raises what argparse would print under the usage."""
    # What is missing may be there under a wrong name, which argparse would tell of later.
    given = [text.partition("=")[0] for text in self._given if text.startswith("--")]
    unknown = [name for name in given if self._names() and name not in self._names()]
    if "required" in message and unknown:
      self._refuse(unknown[0])
    message = re.sub(r"^argument (--\w+)(, -\w)?: ", r"\1: ", message)
    raise UsageError(f"{message}; see {self.prog} --help")


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
  """Splits arguments into others, and (KEY, VALUE) of --config.KEY=VALUE or --config.KEY VALUE.

  A key alone is "true", and --noconfig.KEY is "false".

  >>> split_overrides(["--config.seed=3", "--workdir=x", "--config.a.b", "-1", "--config.c"])
  (['--workdir=x'], [('seed', '3'), ('a.b', '-1'), ('c', 'true')])
  """
  rest, found = [], []
  waiting = list(arguments)
  while waiting:
    argument = waiting.pop(0)
    match = re.fullmatch(r"--?(no)?config\.([^=]+)(?:=(.*))?", argument, re.DOTALL)
    if match is None:
      rest.append(argument)
      continue
    negated, key, value = match.groups()
    if negated:
      value = "false"
    elif value is None:
      follows = bool(waiting) and not re.match(r"-(?![\d.])", waiting[0])
      value = waiting.pop(0) if follows else "true"
    found.append((key, value))
  return rest, found


def nearest(name: str, names: Sequence[str]) -> str:
  """Returns "; did you mean ...?" with the name that is most like another one, or nothing."""
  near = difflib.get_close_matches(name, names, n=1)
  return f"; did you mean {near[0]}?" if near else ""


def tell(message: object) -> None:
  """Prints what is no result on stderr, and nothing of it can steer the terminal."""
  print("\n".join(map(printable, str(message).split("\n"))), file=sys.stderr)


def note(*remarks: str) -> None:
  """Tells remarks, a line each."""
  for remark in remarks:
    tell(f"note: {remark}")


def left_out(images: Sequence[Sequence[str]], place: object = "") -> None:
  """Tells (file, reason) of images that could not be read; of many the first five, and `place`."""
  shown = images[:5] if place else images
  for file, reason in shown:
    tell(f"left out: {printable(file)}: {printable(reason)}")
  if len(images) > len(shown):
    tell(f"left out: {len(images) - len(shown)} more, all named in {place}")


def _fail(message: object, status: int) -> int:
  tell(f"error: {message}")
  return status


class _Terminated(SystemExit):
  """SIGTERM came."""


class _Signals:
  """Makes Ctrl-C and SIGTERM end the work once, so that it is tidied up whatever comes after.

  A second one is told of, a third one ends the process at once.
  """

  def __init__(self):
    self.count = 0
    self._before: dict[int, Any] = {}

  def __enter__(self) -> Self:
    self._hook, sys.unraisablehook = sys.unraisablehook, self.lost
    if threading.current_thread() is threading.main_thread():
      for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL):
          self._before[number] = signal.signal(number, self._handle)
    return self

  def __exit__(self, *_: object) -> None:
    sys.unraisablehook = self._hook
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _handle(self, number: int, _: object) -> None:
    self.count += 1
    if self.count > 2:
      os._exit(128 + number)
    if self.count > 1:
      os.write(2, b"still tidying up; once more leaves at once\n")
    elif number == signal.SIGINT:
      raise KeyboardInterrupt
    else:
      raise _Terminated(128 + number)

  def lost(self, unraisable: Any) -> None:
    """Repeats a signal that is about to be lost, and shows other errors that nobody can catch.

    Python calls some functions between two lines of ours, JAX's callback of the garbage collector
    for one, and drops what they raise: about every second Ctrl-C while a command starts.
    """
    if issubclass(unraisable.exc_type, KeyboardInterrupt | _Terminated):
      self.count = 0
      ended = issubclass(unraisable.exc_type, _Terminated)
      again = os.getpid(), signal.SIGTERM if ended else signal.SIGINT
      threading.Timer(0.02, os.kill, again).start()  # When we are out of that function.
    elif str(unraisable.exc_value) != "Event loop is closed":  # TensorStore's, of one that is told
      sys.__unraisablehook__(unraisable)


def guard(
  work: Callable[[], int | None], args: argparse.Namespace | None = None, *, resumes: str = "",
  user_errors: tuple[type[Exception], ...] = (),
) -> int:  # fmt: skip
  """Runs a command's work; what a user can read of its errors is one line on stderr.

  Messages name the options in `args`; `resumes` and `user_errors` are a `Command`'s.

  Returns:
    The exit status: the work's, 2 for what the user can mend, 1 for what broke, 130 after Ctrl-C,
    143 after SIGTERM.
  """
  goes_on = f"{resumes and '; the same command ' + resumes}"
  options = vars(args or argparse.Namespace())
  with _Signals() as signals:
    try:
      status = work() or 0
      sys.stdout.flush()
      return status
    except KeyboardInterrupt:
      signals.count = max(signals.count, 1)  # The work may have raised it itself.
      tell(f"interrupted{goes_on}")
      return 130
    except _Terminated as end:
      tell(f"terminated{goes_on}")
      return int(end.code or 0)
    except JaxdmlError as error:
      return _fail(error, error.exit_status)
    except BrokenPipeError:
      # Who read our output, `head` for one, has seen enough. Python would flush it again at exit.
      os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
      return 1
    except OSError as error:
      return _fail(_describe(error, options), 1 if error.errno in _BROKEN else 2)
    except Exception as error:
      if _from_ctrl_c(error):  # It met an import, say, which reports it as an error of its own.
        tell(f"interrupted{goes_on}")
        return 130
      if not isinstance(error, user_errors):
        raise
      # The library names its arguments, which are our options.
      ours = str(error).partition(":")[0] in options
      return _fail(f"{'--' if ours else ''}{error}", 2)


def _from_ctrl_c(error: BaseException | None) -> bool:
  while error is not None and not isinstance(error, KeyboardInterrupt):
    error = error.__cause__ or error.__context__
  return error is not None


def _describe(error: OSError, options: dict[str, Any]) -> str:
  """The error with its file and the option that this came from; without a file, where we write."""
  said = error.strerror or str(error) or type(error).__name__
  if not isinstance(error.filename, str | bytes):
    named = [f"--{name}={options[name]}: " for name in ("out", "workdir") if options.get(name)]
    return f"{named[0] if named else ''}{said}"
  file = os.fsdecode(error.filename)
  for name, value in options.items():
    place = os.fspath(value) if isinstance(value, str | os.PathLike) else ""
    if place and (file == place or file.startswith(place + os.sep)):
      return f"--{name}={place}: {said}{'' if file == place else ': ' + file}"
  return f"{file}: {said}"


def load(name: str) -> Command:
  """Returns a command by its name, one of `NAMES`."""
  return importlib.import_module(f"jaxdml.commands.{name}").COMMAND


def _without_command(arguments: Sequence[str]) -> None:
  """Answers --help and --version; anything else names no command."""
  if arguments[:1] in (["--help"], ["-h"]):
    width = max(map(len, NAMES))
    lines = "\n".join(f"  {name:<{width}}  {load(name).summary}" for name in NAMES)
    print(
      f"usage: jaxdml COMMAND --OPTION=VALUE ...\n\nDeep metric learning in JAX.\n\n{lines}\n\n"
      "jaxdml COMMAND --help has the options of one, jaxdml --version the version."
    )
  elif arguments[:1] == ["--version"]:
    print(f"jaxdml {__version__}")
  elif arguments:
    near = nearest(arguments[0], NAMES)
    raise UsageError(f"unknown command {arguments[0]!r}{near}; expected one of {', '.join(NAMES)}")
  else:
    raise UsageError(f"expected a command, one of {', '.join(NAMES)}; see jaxdml --help")


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a command and its options, by default those of this process; returns the exit status."""
  arguments = list(sys.argv[1:] if argv is None else argv)
  if not arguments or arguments[0] not in NAMES:
    return guard(lambda: _without_command(arguments))
  command, args = load(arguments[0]), argparse.Namespace()

  def work() -> int | None:
    parser = Parser(prog=f"jaxdml {arguments[0]}", description=f"{command.summary}.")
    command.add_options(parser)
    parser.parse_args(arguments[1:], args)
    return command.run(args)

  try:
    return guard(work, args, resumes=command.resumes, user_errors=command.user_errors)
  except SystemExit as end:  # argparse has printed the help.
    return int(end.code or 0)


def start(argv: Sequence[str] | None = None) -> NoReturn:
  """Runs a command line, as `main`, and ends the process with its exit status."""
  status = main(argv)
  if status in (130, 143):
    # It may have met the import of a native library: Python's orderly end can crash or hang on what
    # that left behind, and there is nothing for it to do.
    sys.stderr.flush()
    os._exit(status)
  sys.exit(status)
