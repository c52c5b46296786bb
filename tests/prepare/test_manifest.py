"""Manifests: what is read, and one message that names the file and the line for what is not."""

import json

import pytest

from jaxdml.prepare import manifest
from jaxdml.prepare.manifest import ManifestError, Row
from jaxdml.prepare.source import PrepareError


def write(tmp_path, content, name="list.csv"):
  path = tmp_path / name
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
  return path


def error(path):
  with pytest.raises(ManifestError) as raised:
    manifest.read(path)
  assert str(path) in str(raised.value)
  return str(raised.value)


@pytest.mark.parametrize(
  "content",
  [
    "path,label\na.jpg,ant\nb c.jpg,bee\n",
    "\ufeffpath,label\r\na.jpg,ant\r\n\r\nb c.jpg,bee",
    "Label; Path\n ant ;a.jpg\nbee;b c.jpg\n",
    'path\tlabel\n"a.jpg"\t"ant"\nb c.jpg\tbee\n',
    "path,label,\na.jpg,ant,\nb c.jpg,bee,\n",
    "path,label,split\na.jpg,ant,\nb c.jpg,bee,\n",
  ],
)
def test_csv_in_its_dialects(tmp_path, content):
  rows, extra = manifest.read(write(tmp_path, content))
  assert [(row.path, row.label, row.split) for row in rows] == [
    ("a.jpg", "ant", None),
    ("b c.jpg", "bee", None),
  ]
  assert extra == []


def test_all_columns_and_lines(tmp_path):
  content = (
    "path,label,coarse,fine,split,photographer\n"
    '"1, old.jpg",ant,insect,ant a,train,Ann\n'
    '"say ""hi"".jpg",bee,insect,bee b,TEST,\n'
  )
  assert manifest.read(write(tmp_path, content)) == (
    [
      Row(2, "1, old.jpg", "ant", "insect", "ant a", "train"),
      Row(3, 'say "hi".jpg', "bee", "insect", "bee b", "TEST"),
    ],
    ["photographer"],
  )


def test_jsonl_takes_text_and_whole_numbers(tmp_path):
  lines = [
    '{"path": "a.jpg", "label": 7, "note": [1, {"deep": null}]}',
    "",
    # Characters that Python's splitlines would take for the end of a line.
    json.dumps({"label": "b\u2028c", "path": " d\u0085.jpg"}, ensure_ascii=False),
  ]
  rows, extra = manifest.read(write(tmp_path, "\r\n".join(lines), "list.jsonl"))
  assert rows == [Row(1, "a.jpg", "7"), Row(3, " d\u0085.jpg", "b\u2028c")]
  assert extra == ["note"]


@pytest.mark.parametrize(
  ("content", "expected"),
  [
    ("", "lists no image"),
    ("path,label\n", "lists no image"),
    ("file,class\na.jpg,ant\n", "line 1: the header .* path and label .*'file', 'class'"),
    ("path,name\na.jpg,ant\n", "line 1: .* label must be among them"),
    ("path,label,Label\na.jpg,ant,bee\n", r"line 1: .*\['label'\] more than once"),
    ("path,label\na.jpg,ant\nb.jpg,\n", "line 3: the label is missing"),
    ("path,label\n,ant\n", "line 2: the path is missing"),
    ("path,label\na.jpg\n", "line 2: 1 fields, and the header has 2"),
    ("path,label\na,b.jpg,ant\n", "line 2: 3 fields, .* double quotes"),
    ('path,label\na.jpg,ant\n"b.jpg,bee\nc.jpg,cat\n', "line 3: not CSV: .* quote"),
    ('path,label\n"a"b.jpg,ant\n', "line 2: not CSV"),
    ('path,label\na.jpg,"a\nb"\nc.jpg,\n', "line 2: the label has a control character"),
    ("path,label\na.jpg,a\0b\n", "line 2: the label has a control character"),
    ("path,label\na\0.jpg,ant\n", "line 2: the path is no file name"),
    ("path,label,coarse\na.jpg,ant,x\nb.jpg,bee,\n", "line 3: the coarse is missing.* all 2"),
    ("path,label,split\na.jpg,ant,val\n", "line 2: unknown split 'val'.* train, test, query, gall"),
    (b"path,label\na.jpg,ant\nb.jpg,\xe9t\xe9\n", "line 3: not UTF-8, byte 0xe9"),
    ("path,label\na.jpg,ant\n".encode("utf-16"), r"line 1: not UTF-8 \(it looks like UTF-16\)"),
    ("path,label\na.jpg," + "x" * 200_000 + "\n", "line 2: not CSV: field larger"),
  ],
)
def test_csv_that_cannot_be_used(tmp_path, content, expected):
  with pytest.raises(ManifestError, match=expected):
    manifest.read(write(tmp_path, content))


@pytest.mark.parametrize(
  ("line", "expected"),
  [
    ('{"path": "b.jpg", "label": "bee"', "not a JSON object: Expecting"),
    ('["b.jpg", "bee"]', "not a JSON object but list"),
    ('{"path": "b.jpg"}', "the label is missing"),
    ('{"path": "b.jpg", "label": null}', "the label is missing"),
    ('{"path": "b.jpg", "label": ""}', "the label is missing"),
    ('{"path": "b.jpg", "label": 1.5}', "the label must be text or a whole number, got float"),
    ('{"path": "b.jpg", "label": true}', "the label must be text or a whole number, got bool"),
    ('{"path": 3, "label": "bee"}', "the path must be text, got int"),
    ('{"path": "b.jpg", "label": "bee", "Label": "cat"}', r"\['label'\] given more than once"),
    ('{"path": "\\ud800.jpg", "label": "bee"}', "the path is no file name"),
    ('{"path": "b.jpg", "label": "\\udc00"}', "the label has .* half a surrogate pair"),
    ('{"path": "b.jpg", "label": ' + "9" * 5000 + "}", "not a JSON object: Exceeds the limit"),
    ('{"path": "b.jpg", "label": ' + "[" * 100_000, "not a JSON object: "),
  ],
)
def test_a_json_line_that_cannot_be_used(tmp_path, line, expected):
  path = write(tmp_path, '{"path": "a.jpg", "label": "ant"}\n' + line, "list.jsonl")
  with pytest.raises(ManifestError, match=f"line 2: .*{expected}"):
    manifest.read(path)


def test_the_first_problems_are_shown_and_all_counted(tmp_path):
  path = write(tmp_path, "path,label\n" + "".join(f"{i}.jpg,\n" for i in range(300)))
  message = error(path)
  assert [f"line {i}: the label is missing" in message for i in range(2, 8)] == [True] * 5 + [False]
  assert message.endswith("and 295 more problems")


def test_files_that_are_no_manifest(tmp_path):
  assert ".csv, .jsonl" in error(write(tmp_path, "path,label\n", "list.xlsx"))
  assert "cannot be read: No such file" in error(tmp_path / "missing.csv")
  (tmp_path / "folder.csv").mkdir()
  assert "cannot be read: Is a directory" in error(tmp_path / "folder.csv")


def test_names_that_look_the_same_are_the_same():
  assert manifest.clean_name("\u00c5ngstr\u00f6m ") == manifest.clean_name("A\u030angstro\u0308m")
  assert manifest.name_problem("na\u00efve \U0001f469\u200d\U0001f680") is None


def test_a_header_of_a_million_columns_and_a_name_as_long_are_said_shortly(tmp_path):
  path = tmp_path / "m.csv"
  for text in (
    ",".join(f"column{i}" for i in range(300_000)) + "\n",
    "path,label," + ",".join(["x"] * 300_000) + "\n",
    "path,label\n" + "a" * 100_000 + ".jpg,\x1b" + "b" * 100_000 + "\n",
  ):
    path.write_text(text)
    with pytest.raises(ManifestError) as error:
      manifest.read(path)
    assert len(str(error.value)) < 3000 and str(error.value).isprintable()
  path = tmp_path / "m.jsonl"
  path.write_text(
    '{"path": "a.jpg", "label": "a", "' + "k" * 10**6 + '": [' + "9" * 10**6 + "]}\n{"
  )
  with pytest.raises(ManifestError) as error:
    manifest.read(path)
  assert len(str(error.value)) < 3000


def test_a_manifest_larger_than_allowed_is_not_read(tmp_path):
  path = tmp_path / "m.csv"
  path.write_text("path,label\na.jpg,ant\n")
  with pytest.raises(PrepareError, match=r"has 21 bytes: more than the 20 that --max_file_bytes"):
    manifest.read(path, 20)
  assert len(manifest.read(path, 21)[0]) == 1
