"""Entry point: the commands, loaded when called, and what an error looks like."""

from __future__ import annotations

import importlib
import logging
import signal
import sys
import traceback
from types import FrameType

import click

from landscape._version import __version__

from . import processes, progress

COMMANDS = {
    "demo": "The whole main job on embedded real data, in minutes.",
    "train": "Train under label noise and write a run file.",
    "sweep": "Many runs to be compared: noise, arms, seeds; one table.",
    "hessian": "Top Hessian eigenvalues and trace of a run.",
    "surface": "1D or 2D loss surface of a run.",
    "sharpness": "SAM, adaptive and average sharpness of a run.",
    "diagnose": "Gradients of clean and wrong labels, g*, and Theorem 1, of a run.",
    "theory": "Judge the statements T1 to T9 by what a study measured.",
    "figure": "Draw the figures of run or study files.",
    "report": "Write a study as one HTML page.",
    "inspect": "Show what a file holds.",
    "verify": "Check a file against its checksums and its schema.",
    "export": "Hand a file's results to other programs.",
}
DONE, FAILED, REFUSED, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143


class Terminated(BaseException):
    """SIGTERM arrived; raised so that files are closed as on Ctrl-C."""


class LazyCommands(click.Group):
    """Imports a command's module when it is called, so that ``--help`` does not load torch."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"{__package__}.{name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyCommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="landscape")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def landscape(debug: bool) -> None:
    """Does label noise sharpen the loss landscape, and does NCSAM help?

    Results go to stdout, progress and messages to stderr. Exit status: 0 done, 1 failed, 2 refused before any work,
    130 interrupted, 143 terminated.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its status."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Run the command line; returns the exit status."""
    with processes.one_voice():
        try:
            return _run(arguments)
        except Terminated:  # while another end was being told
            return TERMINATED


def _run(arguments: list[str]) -> int:
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s: %(message)s", level=logging.WARNING, force=True)
    logging.captureWarnings(True)
    previous = signal.signal(signal.SIGTERM, _terminate)
    progress.begin()
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    try:
        processes.join(arguments)
        result = landscape.main(arguments, prog_name="landscape", standalone_mode=False)
        processes.leave()
        return result if isinstance(result, int) else DONE
    except click.exceptions.Exit as request:
        return request.exit_code
    except click.UsageError as error:
        where = f" (see `{error.ctx.command_path} --help`)" if error.ctx is not None else ""
        return _fail(f"{error.format_message()}{where}", error, REFUSED, debug)
    except click.ClickException as error:
        return _fail(error.format_message(), error, error.exit_code, debug)
    except (KeyboardInterrupt, click.Abort) as stop:
        return _stopped("interrupted", stop, INTERRUPTED, debug)
    except Terminated as stop:
        why = " (the job was stopped, or another of its processes ended)" if processes.launched() else ""
        return _stopped(f"terminated{why}", stop, TERMINATED, debug)
    except Exception as error:
        status = FAILED if progress.started() else REFUSED
        hint = progress.how_to_resume() if processes.launched() else None
        message = f"{processes.who()}{_one_line(error)}"
        return _fail(f"{message}; continue with: {hint}" if hint else message, error, status, debug)
    finally:
        signal.signal(signal.SIGTERM, previous)


def _one_line(error: Exception) -> str:
    from landscape.store import StoreError

    expected: tuple[type[Exception], ...] = (StoreError, ValueError, OSError, FloatingPointError, KeyError)
    if processes.launched():
        from landscape.ranks import RankLostError, RanksDisagreeError

        expected += (RankLostError, RanksDisagreeError)
    text = " ".join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())
    if isinstance(error, expected):
        return text or type(error).__name__
    return f"{type(error).__name__}: {text} (run again with --debug for the traceback)"


def _fail(message: str, error: BaseException, status: int, debug: bool) -> int:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what is said now shall be said; run() sets it back
    where = processes.speaker()
    if where is not None:
        if debug:
            traceback.print_exception(error, file=where)
        click.echo(f"landscape: error: {message}", file=where)
    return status


def _stopped(word: str, stop: BaseException, status: int, debug: bool) -> int:
    hint = progress.how_to_resume()
    return _fail(f"{word}{f'; continue with: {hint}' if hint else ''}", stop, status, debug)


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise Terminated
