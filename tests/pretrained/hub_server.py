"""A server on this machine that answers what huggingface_hub asks of the hub, and its failures."""

import contextlib
import hashlib
import http.server
import json
import threading
from urllib.parse import unquote, urlsplit


class Hub:
  """Repositories by name, each with the commits of its branches and tags and one set of files.

  `requests` has what was asked for; `cut` names files whose body ends half-way, `gated` the
  repositories that want an accepted licence.
  """

  def __init__(self, url):
    self.url, self.requests = url, []
    self.repos, self.revisions = {}, {}
    self.cut, self.gated, self.lies = set(), set(), set()

  def add(self, repo, files, **branches):
    """Puts files into a repository under the next commit, which its branches point to."""
    commit = hashlib.sha1(repr((repo, sorted(files.items()))).encode()).hexdigest()
    self.repos.setdefault(repo, {})[commit] = dict(files)
    self.revisions.setdefault(repo, {}).update({"main": commit, commit: commit, **branches})
    return commit

  def answer(self, method, path):
    """(status, headers, body, bytes of it that are sent)"""
    parts = [unquote(part) for part in urlsplit(path).path.strip("/").split("/")]
    api = parts[:2] == ["api", "models"]
    if not (api and parts[4:5] == ["revision"]) and parts[2:3] != ["resolve"]:
      return _error(404, "")
    self.requests.append((method, path))
    repo, revision = ("/".join(parts[2:4]), parts[5]) if api else ("/".join(parts[:2]), parts[3])
    if repo not in self.repos:
      return _error(401, "RepoNotFound")
    if revision not in self.revisions[repo]:
      return _error(404, "RevisionNotFound")
    commit = self.revisions[repo][revision]
    files = self.repos[repo][commit]
    if api:  # A gated repository's list is public.
      siblings = [{"rfilename": n, "size": len(b), "blobId": _blob(b)} | self._lfs(n, b)
                  for n, b in files.items()]  # fmt: skip
      body = json.dumps({"id": repo, "modelId": repo, "sha": commit, "siblings": siblings}).encode()
      return 200, {"Content-Type": "application/json"}, body, len(body)
    name = "/".join(parts[4:])
    if repo in self.gated:
      return _error(403, "GatedRepo")
    if name not in files:
      return _error(404, "EntryNotFound", commit)
    body = files[name]
    headers = {"ETag": f'"{self._lfs(name, body).get("lfs", {}).get("sha256", _blob(body))}"'}
    return (
      200,
      headers | {"X-Repo-Commit": commit},
      body,
      len(body) // (2 if name in self.cut else 1),
    )

  def _lfs(self, name, body):
    if not name.endswith((".safetensors", ".bin", ".pth")):
      return {}
    digest = hashlib.sha256(body + b"?" * (name in self.lies)).hexdigest()
    return {"lfs": {"sha256": digest, "size": len(body), "pointerSize": 134}}


def _blob(body):
  return hashlib.sha1(body).hexdigest()


def _error(status, code, commit=""):
  return status, {"X-Error-Code": code, "X-Repo-Commit": commit}, b"{}", 2


@contextlib.contextmanager
def serving():
  """Yields a `Hub` on a free port of this machine."""

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      status, headers, body, sent = hub.answer(self.command, self.path)
      self.send_response(status)
      for name, value in {**headers, "Content-Length": str(len(body))}.items():
        self.send_header(name, value)
      self.end_headers()
      if self.command == "GET":
        self.wfile.write(body[:sent])
      self.close_connection = True

    do_HEAD = do_GET
    log_message = lambda *_: None

  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
  hub = Hub(f"http://127.0.0.1:{server.server_port}")
  thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
  thread.start()
  try:
    yield hub
  finally:
    server.shutdown()
    server.server_close()
    thread.join()
