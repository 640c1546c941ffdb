"""The command `difflm`."""

from __future__ import annotations

import os
import sys
import warnings


EXPECTED = (ImportError, ValueError, OSError, RuntimeError, MemoryError)  # of users, disks, networks and machines
USERS_FAULT, OWN_FAULT, INTERRUPTED = 1, 70, 130  # exit codes; sysexits.h has the second, and shells the third


def main() -> None:
    """
    Runs the command. What goes wrong is told in one line, and where it did only with `--debug`; with `--json` it is
    printed to stdout, too.
    """
    if "--debug" not in sys.argv:  # what libraries tell developers
        warnings.simplefilter("ignore")
        os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    try:
        from .program import app  # here, as people may interrupt this, too

        app()
    except KeyboardInterrupt as error:  # before the parser was there, which tells of others by its exit
        _tell("interrupted", error)
        raise SystemExit(INTERRUPTED) from None
    except SystemExit as end:  # of the parser, which has told people
        error = end.__context__
        if end.code == INTERRUPTED:
            _tell("interrupted", error.__context__)
        elif hasattr(error, "format_message"):
            _print_error(error.format_message(), error)
        raise
    except Exception as error:
        is_expected = isinstance(error, EXPECTED) and str(error)
        said = str(error) if is_expected else f"{type(error).__name__}: {error}; `difflm --debug ...` shows where"
        said = " ".join(said.split())
        if "--debug" in sys.argv:
            _print_error(said, error)
            raise
        _tell(said, error)
        raise SystemExit(USERS_FAULT if isinstance(error, EXPECTED) else OWN_FAULT) from None


def _tell(message: str, error: BaseException) -> None:
    from rich.markup import escape

    from .common import console

    console.print(f"[red]error:[/red] {escape(message)}", highlight=False, soft_wrap=True)
    _print_error(message, error)


def _print_error(message: str, error: BaseException) -> None:
    """Prints what went wrong for programs, if that is asked for."""
    if any(word.split("=")[0] == "--json" for word in sys.argv):  # it takes no value, and who gives one is told so
        from .common import print_json

        print_json({"error": message, "type": type(error).__name__})
