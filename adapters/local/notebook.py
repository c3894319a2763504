"""Executes a notebook and writes it with its outputs: `python notebook.py IN OUT`, in the working folder of the job.

Runs under the site's interpreter for programs, by its path, and imports nothing of this package: only nbclient, which
is optional, and nbformat, which comes with it. Exit 1: a cell raised; the outputs up to there are written all the same.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any


def execute(source: Path, target: Path) -> int:
    """Returns the exit code."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    nbformat: Any = import_module("nbformat")  # ships no types
    notebook = nbformat.read(source, as_version=4)

    def tell(cell: Any, cell_index: int) -> None:
        sys.stdout.write(f"cell {cell_index + 1} of {len(notebook.cells)}\n")
        sys.stdout.flush()

    # The kernel that a notebook names is the one of its author's machine; here there is one. The supervisor bounds
    # the whole run, so no cell has a time limit of its own.
    client = NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        on_cell_start=tell,
        resources={"metadata": {"path": str(Path.cwd())}},
    )
    try:
        client.execute()
    except CellExecutionError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    finally:
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, target)
    return 0


if __name__ == "__main__":
    sys.exit(execute(Path(sys.argv[1]), Path(sys.argv[2])))
