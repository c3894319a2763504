"""What an operator says of the Python that programs run in, on platforms of others. Imports packaging and pydantic."""

from __future__ import annotations

from typing import Annotated

from packaging.version import InvalidVersion, Version
from pydantic import AfterValidator


def _version(text: str) -> str:
    try:
        return str(Version(text))
    except InvalidVersion:
        raise ValueError("a version such as 3.11.9 is wanted") from None


PythonVersion = Annotated[str, AfterValidator(_version)]
