"""The ``stepneg`` command: LightningCLI's verbs and stepneg's own."""

import sys

from lightning.pytorch.cli import ArgsType

from stepneg.errors import InputError


def main(args: ArgsType = None) -> None:
    """Run a verb; bad input ends in one line on standard error and exit code 2."""
    from stepneg.commands import run

    argv = [str(a) for a in (sys.argv[1:] if args is None else args)]
    try:
        run(argv)
    except InputError as error:
        sys.stderr.write(f"stepneg: error: {' '.join(str(error).split())}\n")
        raise SystemExit(2) from None
