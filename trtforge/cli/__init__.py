"""The command line."""

from __future__ import annotations

import json
import os
import sys
import traceback

from trtforge.errors import ExitCode, TrtforgeError


def main() -> None:
    """Run the ``trtforge`` command and exit with a documented code."""
    from trtforge.cli.app import app

    try:
        app()
    except TrtforgeError as error:
        _show(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped; `trtforge run … --resume` goes on from here\n")
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.STEP_FAILED)
    except Exception:  # noqa: BLE001  # not the user's mistake: the traceback is what we need
        traceback.print_exc()
        sys.stderr.write("\nThis is a defect of trtforge; please report the lines above.\n")
        sys.exit(ExitCode.STEP_FAILED)


def _show(error: TrtforgeError) -> None:
    if "--json" in sys.argv:
        facts = {"where": error.where, "what": error.what, "remedy": error.remedy}
        answer = {"error": facts, "exit_code": int(error.exit_code)}
        sys.stdout.write(json.dumps(answer, indent=2) + "\n")
    sys.stderr.write(f"trtforge: {error}\n")
