"""What the fleet's demo runs: it counts to the number given, one a second, and leaves a file.

It writes down each of its starts, so that a second one would be seen."""

import sys
import time
from pathlib import Path

STARTS = Path("$folder/starts")  # filled in when the demo begins

name, last = sys.argv[1], int(sys.argv[2])
with STARTS.open("a") as starts:
    print(name, file=starts)
for number in range(1, last + 1):
    time.sleep(1)
    print(f"{name}: {number} of {last}", flush=True)
Path("results").mkdir(exist_ok=True)
Path("results/count.txt").write_text(f"{name} counted to {last}\n")
