"""Runs a CWL document with cwltool: `python runner.py MAIN INPUTS OUT`, in the working folder of the job. OUT/
cwl.output.json tells the outputs, by paths relative to OUT.

Runs under the site's interpreter for workflows, by its path, and imports nothing of this package: only cwltool, which
is optional. Documents are read from the working folder alone: whatever else belongs to the workflow was attached. Steps
run one after another, and never in a container.

Exit codes are cwltool's own: 0; 1, a step failed or the documents do not fit; 33, it asks for what the runner cannot do
(https://cwltool.readthedocs.io/en/latest/cli.html). The last line on stderr says in one sentence what is wrong.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import tempfile
import threading
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

UNSUPPORTED = 33
_LONGEST = 2000  # characters of what is told
_MOST = 100  # things that went wrong; the rest is in the log


class Words(logging.StreamHandler[Any]):
    """What the runner says, written out, and kept for the one sentence at the end."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self.errors: list[str] = []
        self.warnings: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        kept = self.errors if record.levelno >= logging.ERROR else self.warnings
        if record.levelno >= logging.WARNING and len(kept) < _MOST:
            kept.append(" ".join(record.getMessage().split())[:_LONGEST])

    def sentence(self, code: int, said: str) -> str:
        """`said`: the last line that a tool wrote itself."""
        if code == UNSUPPORTED:
            return f"cwltool cannot run this workflow (exit code {code}): {' '.join(self.errors) or said}"
        ended = [text for text in self.warnings if "exited with status" in text]
        parts = self.errors[:3] or [*ended[:1], *([said] if said else [])] or self.warnings[:1]
        text = f"the workflow ended with exit code {code}: {': '.join(parts)}"
        # Where the files lie here is of no use to whoever attached them.
        return text.replace(f"file://{Path.cwd()}/", "").replace(f"{Path.cwd()}/", "")


class Tee:
    """What processes write to our stderr, passed on, its last line kept. Theirs alone: the runner's own words go to
    `out`, the stderr that was there before."""

    def __init__(self) -> None:
        self._out = os.dup(2)
        self.out = os.fdopen(os.dup(self._out), "w", buffering=1, errors="replace")
        reader, writer = os.pipe()
        os.dup2(writer, 2)
        os.close(writer)
        self._tail = b""
        self._thread = threading.Thread(target=self._pass_on, args=(reader,), daemon=True)
        self._thread.start()

    def _pass_on(self, reader: int) -> None:
        while piece := os.read(reader, 65536):
            self._tail = (self._tail + piece)[-4096:]
            while piece:
                piece = piece[os.write(self._out, piece) :]

    def close(self) -> str:
        """The last line; a process that was left behind may hold our stderr open, so it is not waited for."""
        sys.stderr.flush()
        os.dup2(self._out, 2)
        self._thread.join(1.0)
        lines = self._tail.decode(errors="replace").splitlines()
        return next((line.strip()[:_LONGEST] for line in reversed(lines) if line.strip()), "")


def shut(folder: Path) -> type[Any]:
    """A fetcher of documents that lie in `folder`."""
    fetchers: Any = import_module("schema_salad.fetcher")
    errors: Any = import_module("schema_salad.exceptions")

    class Shut(fetchers.DefaultFetcher):  # type: ignore[misc]  # of a module that is not there for mypy
        def fetch_text(self, url: str, content_types: list[str] | None = None) -> str:
            if url not in self.cache and not self._ours(url):
                raise errors.ValidationException(f"{url[:300]} is not attached, and nothing is fetched here")
            text: str = super().fetch_text(url, content_types)
            return text

        def check_exists(self, url: str) -> bool:
            return url in self.cache or (self._ours(url) and bool(super().check_exists(url)))

        def _ours(self, url: str) -> bool:
            parts = urlsplit(url)
            path = Path(unquote(parts.path))
            return parts.scheme == "file" and (path.resolve().is_relative_to(folder) or path.is_relative_to(folder))

    return Shut


def execute(main: str, inputs: str, out: str, words: Words) -> int:
    """Returns the exit code."""
    runner: Any = import_module("cwltool.main")
    contexts: Any = import_module("cwltool.context")
    loading = contexts.LoadingContext()
    loading.fetcher_constructor = shut(Path.cwd())
    # Each set in front of a name: cwltool makes one folder for each step there.
    places = [f"--{name}={tempfile.gettempdir()}/" for name in ("tmpdir-prefix", "tmp-outdir-prefix")]
    options = ["--no-container", "--disable-color", "--skip-schemas", "--relax-path-checks", *places]
    told = io.StringIO()
    code: int = runner.main(
        [*options, f"--outdir={out}", main, inputs], stdout=told, logger_handler=words, loadingContext=loading
    )
    if code == 0:
        outputs = _relative(json.loads(told.getvalue() or "{}"), Path(out).resolve())
        text = json.dumps(outputs, indent=4, ensure_ascii=False)
        Path(out, "cwl.output.json").write_text(f"{text}\n", encoding="utf-8")
        sys.stdout.write(f"{text}\n")
    return code


def _relative(value: Any, out: Path) -> Any:
    """Files as whoever fetches the results knows them; where they lie here is of no use there."""
    if isinstance(value, list):
        return [_relative(item, out) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {name: _relative(item, out) for name, item in value.items()}
    location = kept.get("location")
    if kept.get("class") in ("File", "Directory") and isinstance(location, str) and location.startswith("file://"):
        path = Path(unquote(urlsplit(location).path))
        kept.pop("path", None)
        kept["location"] = path.relative_to(out).as_posix() if path.is_relative_to(out) else path.name
    return kept


def run(arguments: list[str]) -> int:
    tee = Tee()
    words = Words(tee.out)
    try:
        main, inputs, out = arguments
        code = execute(main, inputs, out, words)
    except (Exception, SystemExit) as error:
        words.errors.append(" ".join(str(error).split())[:_LONGEST] or type(error).__name__)
        code = 1
    said = tee.close()
    if code:
        tee.out.write(f"{words.sentence(code, said)}\n")
    return code


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
