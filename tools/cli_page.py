"""`python -m edgereel.tools.cli_page [FILE]`: write docs/cli.md, or another file, from the help of every command."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from ..cli import app
from ..core.files import whole_file

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"
INTRODUCTION = """# The command line

`make docs` writes this page from the commands' own help. Change the help, not the page.

Every command has `--help`, and almost every one `--json`, which prints one object on stdout. Progress and notes
go to stderr.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | failed |
| 2 | wrong usage or input, a missing file or bundle too |
| 129 | hung up: the terminal was closed |
| 130 | interrupted by ctrl-C, or cancelled |
| 143 | terminated (SIGTERM) |
"""


@dataclass(frozen=True)
class Parameter:
    """An argument or option of a command, as its function declares it."""

    name: str
    kind: Any
    info: Any
    default: Any

    @property
    def is_argument(self) -> bool:
        """Whether it has no name on the command line."""
        return type(self.info).__name__ == "ArgumentInfo"

    @property
    def is_required(self) -> bool:
        """Whether a command does not run without it."""
        return self.default is inspect.Parameter.empty

    @property
    def value(self) -> str:
        """What stands for its value: the name it was given, else one for its type."""
        if self.info.metavar:
            return str(self.info.metavar)
        if self.is_argument:
            return self.name.upper()
        if self.name == "bundle":
            return "FOLDER"
        names = {int: "N", float: "NUMBER", Path: "PATH"}
        return next((name for kind, name in names.items() if kind in (self.kind, *get_args(self.kind))), "TEXT")

    @property
    def written(self) -> str:
        """How it is written on a command line."""
        if self.is_argument:
            return f"`{self.value}`"
        declared = [self.info.default, *(self.info.param_decls or ())]  # typer takes the first name for a default
        names = [name for name in declared if isinstance(name, str)] or [f"--{self.name.replace('_', '-')}"]
        joined = ", ".join(f"`{name}`" for name in names).replace("/", "`, `")
        return joined if self.kind is bool else f"{joined} `{self.value}`"

    @property
    def told(self) -> str:
        """Its help, with the default where the help does not tell that."""
        untold = (
            self.default is None or isinstance(self.default, bool) or self.is_required or "Default" in self.info.help
        )
        return str(self.info.help) if untold else f"{self.info.help} Default `{self.default}`."


def cli_page() -> str:
    """Return the page as Markdown: a list of the commands, then each with its arguments and options."""
    commands = dict(_commands(app, "edgereel"))
    rows = [[f"[`{name}`](#{name.replace(' ', '-')})", _help(function)] for name, function in commands.items()]
    sections = [_section(name, function) for name, function in commands.items()]
    return "\n".join([INTRODUCTION, *_table(["command", "what it does"], rows), *sections])


def _commands(group: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the function of every command below a group, by the command's full name, in the order of --help."""
    for command in group.registered_commands:
        yield f"{name} {command.name or command.callback.__name__}", command.callback
    for inner in group.registered_groups:
        yield from _commands(inner.typer_instance, f"{name} {inner.name}")


def _section(name: str, function: Any) -> str:
    parameters = _parameters(function)
    arguments = [each for each in parameters if each.is_argument]
    options = [each for each in parameters if not each.is_argument]
    words = [each.value if each.is_required else f"[{each.value}]" for each in arguments]
    needed = [
        each.written.replace("`", "").split(", ")[0].split()[0] + f" {each.value}"
        for each in options
        if each.is_required
    ]
    lines = ["", f"## {name}", "", _help(function), "", f"    {' '.join([name, *words, *needed, '[OPTIONS]'])}", ""]
    if arguments:
        lines += [*_table(["argument", ""], [[each.written, each.told] for each in arguments]), ""]
    return "\n".join([*lines, *_table(["option", ""], [[each.written, each.told] for each in options])])


def _parameters(function: Any) -> list[Parameter]:
    """Return what a command's function takes, in the order of --help."""
    hints = get_type_hints(function, include_extras=True)
    found = []
    for name, parameter in inspect.signature(function).parameters.items():
        kind, info = get_args(hints[name])[:2]
        found.append(Parameter(name, kind, info, parameter.default))
    return found


def _help(function: Any) -> str:
    return " ".join((function.__doc__ or "").split())


def _table(titles: list[str], rows: list[list[str]]) -> list[str]:
    lines = [titles, ["---"] * len(titles), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def main() -> None:
    """Write the page."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE
    with whole_file(path) as temporary:
        Path(temporary).write_text(f"{cli_page()}\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
