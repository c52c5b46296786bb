"""Pages show what was found, and nothing of a name becomes markup or leaves the page."""

import base64
import html.parser
import re

import cv2
import numpy as np
import pytest

from jaxdml import inference, search
from jaxdml.search import page
from tests.search.helpers import FakeModel, png, write_images

EVIL = '<script>alert(1)</script><img src=x onerror="alert(2)">&amp;\udce4"\''


class Parser(html.parser.HTMLParser):
  """Collects tags, attributes and text as a browser would."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.attributes, self.text = [], [], ""
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.attributes += attrs

  def handle_data(self, data):
    self.text += data


def photo():
  """Wide, and larger than a thumbnail."""
  pixels = np.full((300, 600, 3), (200, 30, 10), np.uint8)
  return cv2.imencode(".jpg", pixels)[1].tobytes()


def found():
  query = search.Query(EVIL, png(0))
  hits = [
    search.Hit(1, 1.0, "cat", "cat/1.png", png(0), True),
    search.Hit(2, 0.51234, EVIL, f"{EVIL}.png", photo()),
    search.Hit(3, -0.25, None, "gone.png", None),
  ]
  return [search.Result(query, tuple(hits)), search.Result(query._replace(path="none"), ())]


def test_html(tmp_path):
  out = search.write_page(tmp_path / "new" / "page.html", found(), title=EVIL, note=EVIL)
  content = out.read_text(encoding="utf-8")
  parser = Parser(content)
  assert "script" not in parser.tags and parser.tags.count("img") == 4
  # Shown as text, every time: title twice, note, query, label, path.
  shown = EVIL.encode("utf-8", "backslashreplace").decode()
  assert parser.text.count(shown) == 6
  ours = {"lang", "charset", "name", "content", "http-equiv", "class", "src", "alt"}
  assert {name for name, _ in parser.attributes} == ours
  sources = [value for name, value in parser.attributes if name in ("src", "href")]
  assert len(sources) == 4 and all(re.match("data:image/(png|jpeg);base64,", s) for s in sources)
  assert not re.search(r"https?:|url\(|@import", content)
  assert "default-src 'none'" in dict(parser.attributes)["content"] + content
  assert "width=device-width" in content
  text = re.sub(r"\s+", " ", parser.text)
  assert "0.512" in text and "-0.250" in text and "no label" in text and "nothing found" in text
  assert text.count("the query itself") == 1 and text.count("image not there") == 1
  images = [cv2.imdecode(np.frombuffer(base64.b64decode(s.split(",")[1]), np.uint8), 1)
            for s in sources]  # fmt: skip
  assert [image.shape for image in images] == [(8, 8, 3), (8, 8, 3), (120, 240, 3), (8, 8, 3)]
  assert np.abs(images[2].mean((0, 1)) - (200, 30, 10)).max() < 4  # Red is still red.
  assert [p.name for p in out.parent.iterdir()] == ["page.html"]


def test_png(tmp_path):
  figure = page.draw(found(), title="$a_{$", note=EVIL)
  texts = [text.get_text() for text in figure.texts]
  assert "$a_{$" in texts and "image not there" in texts
  assert any(text.startswith("1.000  the q") for text in texts)
  assert any(text.startswith("0.512") for text in texts)
  out = search.write_page(tmp_path / "page.PNG", found(), title="$a_{$", note=EVIL)
  image = cv2.imread(str(out))
  assert image.shape[0] > 200 and image.shape[1] > 400
  with pytest.raises(ValueError, match="results: expected at least one"):
    page.draw([], title="")


def test_only_pages_and_pictures(tmp_path):
  for name in ("page.pdf", "page"):
    with pytest.raises(search.SearchError, match=r"ends in \.html .* or \.png .*, got "):
      search.write_page(tmp_path / name, found(), title="")
  (tmp_path / "folder.html").mkdir()
  with pytest.raises(search.SearchError, match="is a folder"):
    search.write_page(tmp_path / "folder.html", found(), title="")


def test_collect(tmp_path):
  photos = write_images(tmp_path / "photos", ["a/1.png", "a/2.png", "b/3.png"])
  source = inference.FolderImages.open(photos)
  search.build_store(FakeModel(), source, tmp_path / "store")
  store = search.Store.open(tmp_path / "store")
  (photos / "b" / "3.png").unlink()
  (photos / "a" / "2.png").write_bytes(png(5))  # The same file, whatever is in it now.
  queries = [search.Query("x.png", png(0)), search.Query(str(photos / "b/../a/2.png"), png(1))]
  index = search.Index(store.embeddings)
  vectors = inference.embed(FakeModel(), [query.image for query in queries])
  one, two = search.collect(store, queries, index.search(vectors, 5))
  assert [hit.rank for hit in one.hits] == [1, 2, 3]
  assert one.hits[0][1:4] == (pytest.approx(1, abs=1e-5), "a", "a/1.png")
  assert [hit.itself for hit in one.hits] == [True, False, False]
  assert [hit.path for hit in two.hits if hit.itself] == ["a/2.png"]
  assert {hit.path: hit.image for hit in one.hits} == {
    "a/1.png": png(0), "a/2.png": png(5), "b/3.png": None,
  }  # fmt: skip
  table = search.format_results([one])
  assert "(the query itself)" in table.splitlines()[2] and "a/1.png" in table


def test_names_cannot_steer_a_terminal():
  hit = search.Hit(1, 0.5, "\x1b[31m", "a\nb.png")
  table = search.format_results([search.Result(search.Query("\x1b]0;x\x07", b""), (hit,))])
  assert "\x1b" not in table and len(table.splitlines()) == 3
  assert "[U+001B][31m" in table and "a[U+000A]b.png" in table


def test_thumbnails():
  assert page._thumbnail(png(0), 4).shape == (4, 4, 3)
  assert page._thumbnail(png(0), 100).shape == (8, 8, 3)  # Never enlarged.
  assert page._thumbnail(b"", 100) is None
