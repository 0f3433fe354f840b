"""Runs a training script and watches it: `torchrun --nproc-per-node 8 -m stallwatch.agent train.py ARGS`."""

from __future__ import annotations

import logging
import os
import runpy
import sys
from pathlib import Path

USAGE = """\
usage: python -m stallwatch.agent SCRIPT [ARGS...]
       python -m stallwatch.agent -m MODULE [ARGS...]

Runs the script as __main__ and watches the model that it trains. Set STALLWATCH_ENDPOINT to the detector's address.
"""


def main() -> None:
    """Prepares, then becomes the script."""
    arguments = sys.argv[1:]
    as_module = arguments[:1] == ["-m"]
    if as_module:
        arguments = arguments[1:]
    if not arguments or arguments[0] in {"-h", "--help"} or (not as_module and arguments[0].startswith("-")):
        stream = sys.stdout if arguments[:1] in (["-h"], ["--help"]) else sys.stderr
        stream.write(USAGE)
        raise SystemExit(0 if stream is sys.stdout else 2)
    _prepare()
    sys.argv = arguments
    if as_module:
        sys.path.insert(0, str(Path.cwd()))
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    else:
        script = Path(arguments[0])
        if not script.exists():
            sys.stderr.write(f"stallwatch: {script} does not exist\n")
            raise SystemExit(2)
        # As Python itself would: the script's folder comes first, in the place of the current one.
        if sys.path and sys.path[0] in {"", str(Path.cwd())}:
            sys.path.pop(0)
        sys.path.insert(0, str(script.resolve().parent))
        runpy.run_path(str(script), run_name="__main__")


def _prepare() -> None:
    from stallwatch.agent import _config as config
    from stallwatch.agent import _environment as environment
    from stallwatch.agent._lifecycle import leave_forks_alone

    if config.disabled():
        return
    if not os.environ.get(environment.ENDPOINT):
        logging.getLogger("stallwatch.agent").warning(
            "stallwatch: not watching, set %s", environment.ENDPOINT
        )
        return
    # Before the script imports gRPC for itself.
    leave_forks_alone()
    try:
        from stallwatch.agent._autoattach import AutoAttachment

        AutoAttachment().install()
    except Exception as error:
        logging.getLogger("stallwatch.agent").warning("stallwatch: not watching: %r", error)


if __name__ == "__main__":
    main()
