"""Tell histories: `python -m broker.testing.simulation SEED [MORE]`. Imports the run and the checker.

One seed: the whole history of it, and what is broken. Two numbers: so many seeds from the first on, and only what is
broken. Ends with 1 where anything is.
"""

from __future__ import annotations

import sys

from broker.testing.simulation.checker import judge
from broker.testing.simulation.run import ground, simulate


def main(first: int, count: int = 0) -> int:
    broken = 0
    with ground() as here:
        for seed in range(first, first + max(1, count)):
            made = simulate(seed, here)
            breaches = judge(made.case())
            lines = [made.history.told()] if not count else []
            lines += [f"seed {seed}: {breach}" for breach in breaches]
            if lines:
                sys.stdout.write("\n".join(lines) + "\n")
            broken += bool(breaches)
    if count:
        sys.stdout.write(f"{count} histories, {broken} broken\n")
    return 1 if broken else 0


if __name__ == "__main__":
    words = sys.argv[1:]
    if len(words) not in (1, 2) or not all(word.isdecimal() for word in words):
        sys.exit("python -m broker.testing.simulation SEED [HOW MANY]")
    sys.exit(main(*map(int, words)))
