"""The page of the `morpheus` command, from the command itself."""

import inspect
from collections.abc import Iterator

from morpheus_devstack.cli import app
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typer.main import get_command

from morpheus_site.generated.text import block, code, page, prose, table

_INTRODUCTION = """\
`morpheus` starts the whole system on one machine, and is what operators look and act with. It speaks to the services over \
the bus: there is no HTTP API for operators. Every command has `--help`, which says what stands here. What goes wrong is one \
sentence on stderr, with exit code 1 where nothing else is said."""


def command_page() -> str:
    """Return the page: every command with its arguments and options."""
    root = get_command(app)
    return page("# The morpheus command", _INTRODUCTION, *_sections(root, "morpheus"))


def _sections(command: object, name: str, level: str = "#") -> Iterator[str]:
    if isinstance(command, TyperGroup):
        commands = sorted(command.commands.items(), key=lambda item: isinstance(item[1], TyperGroup))
        for word, one in commands:
            if isinstance(one, TyperGroup):
                yield f"{level}# {name} {word}"
                yield prose(_help(one))
            yield from _sections(one, f"{name} {word}", f"{level}#")
    elif isinstance(command, TyperCommand):
        arguments = [parameter for parameter in command.params if isinstance(parameter, TyperArgument)]
        options = [
            parameter for parameter in command.params if isinstance(parameter, TyperOption) and not parameter.hidden
        ]
        words = [argument.metavar or str(argument.name).upper() for argument in arguments]
        yield f"{level} {name}"
        yield block("sh", " ".join([name, *words, *(["[options]"] if options else [])]))
        yield prose(_help(command))
        rows = [
            (code(argument.metavar or str(argument.name).upper()), argument.help or "", "", "")
            for argument in arguments
        ]
        rows += [(_option(option), option.help or "", _default(option), _bounds(option)) for option in options]
        if rows:
            yield table(("Argument or option", "Meaning", "Default", "Limits"), rows)


def _help(command: TyperCommand | TyperGroup) -> str:
    return inspect.cleandoc(command.help or "")


def _option(option: TyperOption) -> str:
    shown = " / ".join(code(name) for name in (*option.opts, *option.secondary_opts))
    if option.is_flag:
        return shown
    return f"{shown} {option.metavar or str(option.name).upper()}" + (", repeatable" if option.multiple else "")


def _default(option: TyperOption) -> str:
    if option.required:
        return "*required*"
    if option.is_flag:
        return "on" if option.default and option.secondary_opts else ""
    return "" if option.default is None else code(str(option.default))


def _bounds(option: TyperOption) -> str:
    if option.min is not None and option.max is not None:
        return f"{option.min:,} to {option.max:,}"
    return "" if option.min is None else f"at least {option.min:,}"
