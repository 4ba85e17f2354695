"""The command line."""

from __future__ import annotations

import gc
import logging
import sys
import traceback

from trtforge.cli.quick_start import quick_start
from trtforge.errors import ExitCode, TrtforgeError

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 and the number of SIGINT, as shells have it."""


def main() -> None:
    """Run the ``trtforge`` command and exit with a documented code."""
    # Libraries warn through loggers, some with a traceback; what a user must know are our errors.
    logging.basicConfig(handlers=[logging.NullHandler()])
    quick_start()
    code = _run()
    if code == INTERRUPTED:
        sys.stderr.write("\ntrtforge: stopped\n")
        if "run" in sys.argv[1:2]:
            sys.stderr.write("  To do: the same command with --resume goes on from here\n")
    from trtforge.cli.answers import flush

    flush()
    gc.freeze()  # at its end the interpreter need not look for garbage in what goes away with it
    sys.exit(code)


def _run() -> int:
    try:
        from trtforge.cli.app import app

        app()
    except SystemExit as end:  # the way in which typer ends
        return end.code if isinstance(end.code, int) else ExitCode.DONE
    except TrtforgeError as error:
        _show(error)
        return error.exit_code
    except KeyboardInterrupt:  # while our own modules load; later typer makes it an exit
        return INTERRUPTED
    except Exception:  # noqa: BLE001  # not the user's mistake: the traceback is what we need
        traceback.print_exc()
        sys.stderr.write("\nThis is a defect of trtforge; please report the lines above.\n")
        return ExitCode.STEP_FAILED
    return ExitCode.DONE


def _show(error: TrtforgeError) -> None:
    if "--json" in sys.argv:
        from trtforge.cli.answers import say_json

        names = ("code", "where", "what", "remedy")
        facts = {name: getattr(error, name) for name in names}
        say_json({"error": facts, "exit_code": int(error.exit_code)})
    sys.stderr.write(f"trtforge: {error}\n  Code: {error.code} (docs/findings.md)\n")
