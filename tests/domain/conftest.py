"""How hypothesis tries things here: the same examples in every run, and no clock that could fail a test.

`HYPOTHESIS_PROFILE=search pytest tests/domain` looks further, and elsewhere each time.
"""

import os

from hypothesis import settings

settings.register_profile("steady", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))
