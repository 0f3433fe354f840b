"""`python tests/reliability/kill.py [--kills 200] [--seed N]`: kill -9 at random moments; nothing is lost, nothing counts twice.

Jobs of three ranks and two attempts are fed to the real analyzer and store in a process that is killed in ingest, snapshot, restore
and migration, and started again. At the end of each job its whole state, the findings and the view in the store must be those of
a twin that was never killed. Exits with 1 when one is not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main() -> int:
    """Kill, compare, and say what was hit."""
    from reliability.driver import kill_until

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    chosen = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        try:
            tally = kill_until(Path(directory), chosen.kills, chosen.seed)
        except AssertionError as error:
            sys.stdout.write(f"seed {chosen.seed}: {error} {getattr(error, '__notes__', '')}\n")
            return 1
    hit = ", ".join(f"{phase} {count}" for phase, count in sorted(tally.kills.items()))
    sys.stdout.write(
        f"seed {chosen.seed}: {sum(tally.kills.values())} kills ({hit}) of {tally.lives} lives in {tally.jobs} jobs, "
        f"{tally.spoiled} begun with a damaged snapshot, {tally.resent} inputs sent again: "
        f"state, findings and view are those of the undisturbed twin every time ({time.monotonic() - started:.0f} s)\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
