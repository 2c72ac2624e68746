"""Entry point: the commands, loaded when called, and what an error looks like."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
from types import FrameType

import click
from click.core import ParameterSource

from landscape import inputs
from landscape._suggest import did_you_mean
from landscape._version import __version__

from .shared import messages, progress, torchrun
from .shared.command import COMMANDS, Context

DONE, FAILED, REFUSED, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143


class Terminated(BaseException):
    """SIGTERM arrived; raised so that files are closed as on Ctrl-C."""


class LazyCommands(click.Group):
    """Imports a command's module when it is called, so that ``--help`` does not load torch."""

    context_class = Context

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"{__package__}.{name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            ctx.fail(f"unknown command {name!r}{did_you_mean(name, COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyCommands,
    invoke_without_command=True,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "auto_envvar_prefix": "LANDSCAPE",
        "max_content_width": 120,
    },
)
@click.version_option(__version__, prog_name="landscape")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def landscape(ctx: click.Context, debug: bool) -> None:
    """Does label noise sharpen the loss landscape, and does NCSAM help?

    Results go to stdout, progress and messages to stderr. Exit status: 0 done, 1 failed, 2 refused before any work,
    130 interrupted, 143 terminated. Options can also be given in the environment, LANDSCAPE_TRAIN_EPOCHS=40 for
    `landscape train --epochs 40`, and in a file: see --config of each command.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its status."""
    status = run(sys.argv[1:] if arguments is None else arguments)
    if torchrun.launched():  # threads of torch have been seen to abort a process that was done while it shut down
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def run(arguments: list[str]) -> int:
    """Run the command line; returns the exit status."""
    previous = signal.signal(signal.SIGTERM, _terminate)
    debug = "--debug" in arguments or os.environ.get("LANDSCAPE_DEBUG", "0") not in ("", "0")
    arguments = [a for a in arguments if a != "--debug"]
    progress.begin(arguments)
    try:
        with torchrun.first_process_prints(), messages.on_stderr(), inputs.limited():
            return _run(arguments, debug)
    except Terminated:  # while another end was being told
        return TERMINATED
    finally:
        signal.signal(signal.SIGTERM, previous)


def _run(arguments: list[str], debug: bool) -> int:
    try:
        torchrun.join(arguments)
        result = landscape.main(arguments, prog_name="landscape", standalone_mode=False, color=messages.color())
        torchrun.leave()
        return result if isinstance(result, int) else DONE
    except click.exceptions.Exit as request:
        return request.exit_code
    except click.UsageError as error:
        where = f" (see `{error.ctx.command_path} --help`)" if error.ctx is not None else ""
        return _fail(f"{error.format_message()}{_origin(error)}{where}", error, REFUSED, debug)
    except click.ClickException as error:
        return _fail(error.format_message(), error, error.exit_code, debug)
    except (KeyboardInterrupt, click.Abort) as stop:
        return _stopped("interrupted", stop, INTERRUPTED, debug)
    except Terminated as stop:
        why = " (the job was stopped, or another of its processes ended)" if torchrun.launched() else ""
        return _stopped(f"terminated{why}", stop, TERMINATED, debug)
    except SystemExit as error:  # click raises Exit, but where it completes words in a shell: this is the user's code
        if "_LANDSCAPE_COMPLETE" in os.environ:
            raise
        if type(sys.stdout).__name__.endswith("PacifyFlushWrapper"):  # click's sign that nobody reads on (`| head`)
            return FAILED
        message = f"code that was called ended the program (sys.exit with {error.code!r}); let it return or raise"
        return _fail(message, error, FAILED, debug)
    except Exception as error:
        status = FAILED if progress.started() else REFUSED
        hint = progress.how_to_resume() if torchrun.launched() else None
        message = f"{torchrun.process_label()}{_one_line(error)}"
        return _fail(f"{message}; continue with: {hint}" if hint else message, error, status, debug)


def _origin(error: click.UsageError) -> str:
    """Place that a wrong value was given at, unless on the command line."""
    if not isinstance(error, click.BadParameter) or error.ctx is None or error.param is None:
        return ""
    source = error.ctx.get_parameter_source(str(error.param.name))
    names = {ParameterSource.ENVIRONMENT: "the environment", ParameterSource.DEFAULT_MAP: "the --config file"}
    return f" in {names[source]}" if source in names else ""


def _one_line(error: Exception) -> str:
    from landscape.store import StoreError

    expected: tuple[type[Exception], ...] = (StoreError, ValueError, OSError, FloatingPointError, KeyError)
    if torchrun.launched():
        from landscape.ranks import RankLostError, RanksDisagreeError

        expected += (RankLostError, RanksDisagreeError)
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror[:1].lower()}{error.strerror[1:]}; check the path"
    if isinstance(error, MemoryError):
        return f"there is not enough memory ({' '.join(str(error).split()) or 'no more can be had'}); ask for less"
    text = " ".join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())
    if isinstance(error, expected):
        return text or type(error).__name__
    return f"{type(error).__name__}: {text} (run again with --debug for the traceback)"


def _fail(message: str, error: BaseException, status: int, debug: bool) -> int:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what is said now shall be said; run() sets it back
    where = torchrun.error_stream()
    if where is not None:
        if debug:
            traceback.print_exception(error, file=where)
        messages.error(" ".join(message.split()), where)
    return status


def _stopped(word: str, stop: BaseException, status: int, debug: bool) -> int:
    hint = progress.how_to_resume()
    return _fail(f"{word}{f'; continue with: {hint}' if hint else ''}", stop, status, debug)


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise Terminated
