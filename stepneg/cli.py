"""The ``stepneg`` command: LightningCLI's verbs and stepneg's own."""

import sys
from collections.abc import Sequence

from stepneg.errors import InputError


def main(args: Sequence[str] | None = None) -> None:
    """Run a verb; bad input ends in one line on standard error and exit code 2."""
    from stepneg.commands import run
    from stepneg.escaping import one_line

    argv = list(sys.argv[1:] if args is None else args)
    try:
        run(argv)
    except InputError as error:
        sys.stderr.write(f"stepneg: error: {one_line(str(error))}\n")
        raise SystemExit(2) from None
