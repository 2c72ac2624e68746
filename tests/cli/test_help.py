"""What `--help` shows: a purpose, options in sections with defaults, examples that work; and what it does not load."""

from __future__ import annotations

import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest

from landscape_cli.main import COMMANDS, landscape, run as call
from landscape_cli.shared.command import Command

EXAMPLES = [(name, example) for name in COMMANDS for example in import_module(f"landscape_cli.{name}").command.examples]


def of(name: str) -> Command:
    found: Command = import_module(f"landscape_cli.{name}").command
    return found


def shown(name: str, width: int) -> list[str]:
    context = landscape.make_context("landscape", [name], max_content_width=width, terminal_width=width)
    return of(name).get_help(of(name).context_class(of(name), context, info_name=name)).splitlines()


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_a_purpose_sections_and_examples(name: str) -> None:
    lines = shown(name, 80)
    assert lines[:3] == [lines[0], "", f"  {COMMANDS[name]}"]
    assert lines[0].startswith("\x1b[1mUsage:\x1b[0m landscape")
    examples = [line for line in lines if line.startswith(f"  landscape {name} ")]
    assert examples == lines[-len(examples) :]
    assert [line.strip() for line in examples] == of(name).examples
    assert len(examples) >= 2
    titles = list(of(name).sections(click.Context(of(name))))
    assert titles[-1] == "General"
    assert [line for line in lines if line.startswith("\x1b[1m")][1:] == [f"\x1b[1m{t}\x1b[0m:" for t in titles] + [
        "\x1b[1mExamples\x1b[0m:"
    ]


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", COMMANDS)
def test_help_keeps_to_the_terminal(name: str, width: int) -> None:
    for line in shown(name, width):
        plain = click.unstyle(line)
        assert len(plain) <= (width if plain.strip() not in of(name).examples else 120), line


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_is_for_and_what_it_is_by_default(name: str) -> None:
    for option in of(name).params:
        if isinstance(option, click.Option):
            assert option.help, option.opts
            assert option.help.endswith((".", ")")), option.help
            default = option.get_default(click.Context(of(name)), call=False)
            silent = option.is_flag or default in (None, 0, "") or option.required or "UNSET" in repr(default)
            assert silent or option.show_default, option.opts


@pytest.mark.parametrize(("name", "example"), EXAMPLES, ids=lambda value: value[:70])
def test_every_example_is_understood(name: str, example: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(example)
    assert words[:2] == ["landscape", name]
    if words[2:] == ["--preset", "list"]:
        assert call(words[1:]) == 0
        assert capsys.readouterr().out
    else:
        of(name).make_context(name, words[2:])


@pytest.mark.slow
def test_every_example_works_as_pasted(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("landscape")
    for _, example in EXAMPLES:
        words = example.replace("landscape", f"{shlex.quote(str(program))}", 1)
        done = subprocess.run(words, shell=True, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, f"{example}\n{done.stderr}"
        assert done.stdout, example
        assert "landscape: error" not in done.stderr, example


def test_the_bare_command_prints_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert call([]) == 0
    bare = capsys.readouterr()
    assert call(["--help"]) == 0
    assert (bare.out, bare.err) == (capsys.readouterr().out, "")
    assert all(f"  {name} " in bare.out for name in COMMANDS)


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from landscape_cli.main import COMMANDS, run\n"
        "heavy = lambda *names: [n for n in names if n in sys.modules]\n"
        "assert run(['--help']) == 0\n"
        "assert not heavy('torch', 'numpy', 'h5py', 'matplotlib', 'scipy', 'tqdm'), 1\n"
        "for name in COMMANDS: assert run([name, '--help']) == 0\n"
        "assert not heavy('torch', 'h5py', 'matplotlib', 'scipy', 'sklearn'), heavy('torch', 'h5py')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_as_documented(
    shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_LANDSCAPE_COMPLETE", f"{shell}_source")
    if shell == "bash":  # click asks the bash that is installed for its version
        monkeypatch.setattr("click.shell_completion.BashComplete._check_version", lambda *_: None)
    with pytest.raises(SystemExit) as done:
        call([])
    assert done.value.code == 0
    assert "_LANDSCAPE_COMPLETE" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "last", "expected"),
    [
        ("landscape he", 1, ["hessian"]),
        ("landscape hessian --wh", 2, ["--which"]),
        ("landscape hessian --which ", 3, ["LA", "SA", "LM", "both"]),
    ],
)
def test_completion_completes(
    words: str, last: int, expected: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_LANDSCAPE_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(last))
    with pytest.raises(SystemExit):
        call([])
    assert [line.partition(",")[2] for line in capsys.readouterr().out.split()] == expected


@pytest.mark.parametrize("name", COMMANDS)
def test_every_number_has_a_stated_range(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for option in of(name).params:
        if isinstance(option.type, click.types.IntParamType | click.types.FloatParamType):
            assert isinstance(option.type, click.IntRange | click.FloatRange), option.name
            assert option.type.min is not None, option.name
            assert option.type.max is not None, option.name
    assert call([name, "--help"]) == 0
    assert "None" not in capsys.readouterr().out


RANGES = [
    ("train", "--out new.h5", "--epochs", ["0", "1000001"]),
    ("train", "--out new.h5", "--lr", ["-1e-9", "1.1e30", "inf", "nan"]),
    ("train", "--out new.h5", "--val-fraction", ["-0.1", "1"]),
    ("sharpness", "run.h5", "--rho", ["-1", "1e30", "1e308", "nan"]),
    ("sharpness", "run.h5", "--samples", ["1", "1000000000000"]),
    ("diagnose", "run.h5", "--clip", ["0", "1e308"]),
    ("diagnose", "run.h5", "--delta", ["0", "1"]),
    ("hessian", "run.h5", "--trace", ["-1", "1000000000000"]),
    ("hessian", "run.h5", "--density", ["1000000000000"]),
    ("hessian", "run.h5", "--seed", ["-1", f"1{'0' * 30}"]),
    ("surface", "run.h5", "--draws", ["0", "1000000000"]),
    ("surface", "run.h5", "--span", ["0", "1e308"]),
    ("demo", "--out new", "--seeds", ["1", "1000000000000"]),
    ("sweep", "--dry-run", "--lr", ["1e308"]),
]


@pytest.mark.parametrize(("name", "words", "option", "values"), RANGES, ids=lambda v: v if isinstance(v, str) else "")
def test_numbers_out_of_range_are_refused_before_files_are_looked_at(
    name: str, words: str, option: str, values: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for value in values:
        assert call([name, *words.split(), option, value]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert option in line
        assert "is not in the range" in line or "is not a finite number" in line
