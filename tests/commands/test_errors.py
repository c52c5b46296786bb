"""Ctrl-C ends any command in one line."""

import pathlib

from jaxdml.commands import errors as command

ROOT = pathlib.Path(__file__).resolve().parent.parent


def _interrupted():
  raise KeyboardInterrupt


def test_ctrl_c_is_one_line(capsys):
  assert command.run(_interrupted) == 130
  assert capsys.readouterr().err == "interrupted\n"
  assert command.run(lambda: 2) == 2


def test_every_command_ends_so():
  """Each that is started with -m and has no answer of its own."""
  for path in (ROOT / "jaxdml").rglob("*.py"):
    text = path.read_text()
    if "sys.exit(main())" in text:
      assert "except KeyboardInterrupt" in text, path
