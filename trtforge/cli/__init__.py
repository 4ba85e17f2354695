"""The command line."""

from __future__ import annotations

import errno
import gc
import logging
import sys
import traceback
from typing import Any

from trtforge.cli.quick_start import quick_start
from trtforge.errors import Defect, ExitCode, RequestError, Stopped, TrtforgeError

SHOWN = 60
"""Characters of a name that is too long."""


def main() -> None:
    """Run the ``trtforge`` command and exit with a documented code."""
    # Libraries warn through loggers, some with a traceback; what a user must know are our errors.
    logging.basicConfig(handlers=[logging.NullHandler()])
    quick_start()
    try:
        code = _run()
    except TrtforgeError as error:
        _show(error)
        code = int(error.exit_code)
    from trtforge.cli.answers import flush

    flush()
    gc.freeze()  # at its end the interpreter need not look for garbage in what goes away with it
    sys.exit(code)


def _run() -> int:
    """Return the exit code of a command that gave an answer.

    Raises:
        TrtforgeError: it gave none.
    """
    try:
        from trtforge.cli.app import app

        code = app(standalone_mode=False)
    except TrtforgeError:
        raise
    except KeyboardInterrupt as error:  # while our own modules load; later typer makes it an exit
        raise _stopped() from error
    except Exception as error:
        if hasattr(error, "format_message"):  # typer's own; its classes are not public
            raise _wrong_usage(error) from error
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            raise _long_name(str(error.filename)) from error
        traceback.print_exc()  # not the user's mistake: the traceback is what we need
        raise Defect(f"This is a defect of trtforge: {type(error).__name__}: {error}") from error
    if code == ExitCode.STOPPED:
        raise _stopped()
    return code if isinstance(code, int) else ExitCode.DONE


def _stopped() -> Stopped:
    sys.stderr.write("\n")  # behind the ^C of the terminal
    goes_on = "the same command with --resume goes on from here" if "run" in sys.argv[1:2] else ""
    return Stopped("stopped", remedy=goes_on)


def _wrong_usage(error: Any) -> RequestError:
    """Return what typer says of the arguments as an error of ours."""
    words = error.format_message()
    command = error.ctx.command_path if error.ctx else "trtforge"
    if words.startswith("Usage:"):  # the help, where a command of a group is missing
        sys.stderr.write(f"{words}\n\n")
        words = "which command is not said"
    where = command.partition(" ")[2]
    return RequestError(words, where=where, remedy=f"`{command} --help` says what it takes")


def _long_name(name: str) -> RequestError:
    return RequestError(
        f"no file can have a name of {len(name)} characters",
        where=f"{name[:SHOWN]}…" if len(name) > SHOWN else name,
        remedy="give a shorter path",
    )


def _show(error: TrtforgeError) -> None:
    from trtforge.cli.answers import say_json, tell

    if "--json" in sys.argv:
        names = ("code", "where", "what", "remedy")
        facts = {name: getattr(error, name) for name in names}
        say_json({"error": facts, "exit_code": int(error.exit_code)})
    tell(error)
