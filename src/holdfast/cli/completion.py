"""`holdfast completion`: shell completion, written out from the parsers.

At a TAB nothing of Holdfast runs, except where a name is expected that a daemon knows: a lockspace, a lease, a
path, a map, a unit. Then the daemon is asked (`cli.names`); nothing is offered when it does not answer at once.
"""

from __future__ import annotations

import argparse
from argparse import SUPPRESS
from collections.abc import Iterator
from typing import NamedTuple

from holdfast.cli.commands import COMMANDS, Entry, load
from holdfast.cli.output import NAMES_OF, Parser

EPILOG = """\
`holdfast completion spaces|leases|paths|maps|units` prints the names that the daemons know: the scripts use them
where such a name is expected.

exit codes: 0 printed, 2 wrong usage

examples:
  holdfast completion bash > /etc/bash_completion.d/holdfast
  holdfast completion zsh  > "${fpath[1]}/_holdfast"
  holdfast completion fish > ~/.config/fish/completions/holdfast.fish
"""
SHELLS = ("bash", "zsh", "fish")
NAMES = ("spaces", "leases", "paths", "maps", "units")


def parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = Parser("completion", "Print a completion script.", EPILOG)
    made.add_argument("shell", choices=(*SHELLS, *NAMES), metavar="|".join(SHELLS))
    return made


class Option(NamedTuple):
    """One option as it is typed. `choices` of its value, `takes_value` when it has one, `names` as in NAMES."""

    name: str
    help: str
    takes_value: bool
    choices: tuple[str, ...]
    names: str


class Leaf(NamedTuple):
    """A command with options; `path` as it is typed behind `holdfast`. `names` of what is no option."""

    path: tuple[str, ...]
    help: str
    options: tuple[Option, ...]
    choices: tuple[str, ...]
    names: str


def leaves(commands: dict[str, Entry], path: tuple[str, ...] = ()) -> Iterator[Leaf]:
    """Every command that does something."""
    for name, entry in commands.items():
        here = (*path, name)
        if entry.group is not None:
            yield from leaves(entry.group, here)
            continue
        parser_of, _ = load(entry)
        options = []
        choices: tuple[str, ...] = ()
        names = ""
        for action in parser_of()._actions:
            if action.help == SUPPRESS:
                continue  # For tests.
            values = tuple(map(str, action.choices or ()))
            kind = str(getattr(action, NAMES_OF, ""))
            if not action.option_strings:
                choices += values
                names = names or kind
            for option in action.option_strings:
                if option.startswith("--"):
                    text = "" if action.help is None else action.help.replace("%%", "%")
                    options.append(Option(option, text, action.nargs != 0, values, kind))
        yield Leaf(here, entry.help, tuple(options), choices, names)


def groups(
    commands: dict[str, Entry], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], dict[str, Entry]]]:
    """Every place where a command name is expected."""
    yield path, commands
    for name, entry in commands.items():
        if entry.group is not None:
            yield from groups(entry.group, (*path, name))


def bash() -> str:
    """A function for `complete -F`."""
    lines = [
        "# bash completion of holdfast",
        "_holdfast_names() {",
        # bash takes a colon for the end of a word: what is before it must not be given again.
        '    local known=$(holdfast completion "$1" 2>/dev/null) before=${cur%"${cur##*:}"}',
        '    COMPREPLY=($(compgen -W "$known" -- "$cur"))',
        '    [[ $COMP_WORDBREAKS == *:* ]] && COMPREPLY=("${COMPREPLY[@]#"$before"}")',
        "    [[ $1 != leases ]] || compopt -o nospace 2>/dev/null",
        "}",
        "_holdfast() {",
        "    local line=${COMP_LINE:0:COMP_POINT} cur prev i words='' typed",
        '    read -ra typed <<< "$line"',
        "    [[ $line == *[[:space:]] ]] && typed+=('')",
        "    cur=${typed[-1]} prev=${typed[-2]}",
        "    COMPREPLY=()",
        "    for ((i = 1; i < ${#typed[@]} - 1; i++)); do",
        "        case ${typed[i]} in",
        '            --) COMPREPLY=($(compgen -c -f -- "$cur")); return;;',
        "            -*) break;;",
        '            *) words+=" ${typed[i]}";;',
        "        esac",
        "    done",
        "    case $words in",
    ]
    for path, commands in groups(COMMANDS):
        names = " ".join([*commands, "--help", *(() if path else ("--version",))])
        lines.append(f"        '{_bash_key(path)}') COMPREPLY=($(compgen -W '{names}' -- \"$cur\"));;")
    for leaf in leaves(COMMANDS):
        words = " ".join([*(option.name for option in leaf.options), *leaf.choices])
        key = _bash_key(leaf.path)
        lines.append(f"        '{key}'|'{key} '*)")
        lines.append("            case $prev in")
        for option in leaf.options:
            if option.names:
                lines.append(f"                {option.name}) _holdfast_names {option.names}; return;;")
            elif option.choices:
                values = " ".join(option.choices)
                lines.append(
                    f"                {option.name}) COMPREPLY=($(compgen -W '{values}' -- \"$cur\")); return;;"
                )
            elif option.takes_value:
                lines.append(f'                {option.name}) COMPREPLY=($(compgen -f -- "$cur")); return;;')
        lines.append("            esac")
        if leaf.names:
            # Where words to choose from come as well, they come behind the name.
            first = f"$words == '{_bash_key(leaf.path)}' && " if leaf.choices else ""
            lines.append(f"            [[ {first}$cur != -* ]] && {{ _holdfast_names {leaf.names}; return; }}")
        lines.append(f"            COMPREPLY=($(compgen -W '{words}' -- \"$cur\"));;")
    lines += ["    esac", "}", "complete -o default -F _holdfast holdfast", ""]
    return "\n".join(lines)


def _bash_key(path: tuple[str, ...]) -> str:
    return "".join(f" {word}" for word in path)


def _zsh_quoted(text: str) -> str:
    for character in "\\[]:'":
        replacement = "'\\''" if character == "'" else "\\" + character
        text = text.replace(character, replacement)
    return text


def zsh() -> str:
    """A file for $fpath."""
    lines = ["#compdef holdfast", ""]
    for names in NAMES:
        lines.append(f"_holdfast_known_{names}() {{ compadd -- $(holdfast completion {names} 2>/dev/null) }}")
    lines.append("")
    for path, commands in groups(COMMANDS):
        lines.append(f"_holdfast{_zsh_name(path)}() {{")
        lines.append("    local -a commands=(")
        lines += [f"        '{name}:{_zsh_quoted(entry.help)}'" for name, entry in commands.items()]
        lines.append("    )")
        depth = len(path) + 2
        lines.append(f"    if (( CURRENT == {depth} )); then _describe command commands; return; fi")
        lines.append(f"    case $words[{depth}] in")
        lines += [f"        {name}) _holdfast{_zsh_name((*path, name))};;" for name in commands]
        lines += ["    esac", "}", ""]
    for leaf in leaves(COMMANDS):
        lines.append(f"_holdfast{_zsh_name(leaf.path)}() {{")
        lines.append(f"    shift {len(leaf.path)} words; (( CURRENT -= {len(leaf.path)} ))")
        lines.append("    _arguments \\")
        for option in leaf.options:
            value = f":value:{_zsh_values(option.names, option.choices)}"
            lines.append(
                f"        '{option.name}[{_zsh_quoted(option.help)}]{value if option.takes_value else ''}' \\"
            )
        if leaf.names and leaf.choices:
            lines.append(f"        '1:value:{_zsh_values(leaf.names, ())}' \\")
            lines.append(f"        '2:value:{_zsh_values('', leaf.choices)}'")
        elif leaf.names or leaf.choices:
            lines.append(f"        '*:value:{_zsh_values(leaf.names, leaf.choices)}'")
        else:
            lines.append("        '*::command:_normal'")
        lines += ["}", ""]
    return "\n".join([*lines, '_holdfast "$@"', ""])


def _zsh_values(names: str, choices: tuple[str, ...]) -> str:
    if names:
        return f"_holdfast_known_{names}"
    return f"({' '.join(choices)})" if choices else "_files"


def _zsh_name(path: tuple[str, ...]) -> str:
    return "".join(f"_{word}" for word in path)


def _fish_names(names: str) -> str:
    return f"(holdfast completion {names} 2>/dev/null)"


def _fish_quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")


def fish() -> str:
    """A file for fish's completions directory."""
    lines = ["# fish completion of holdfast", "complete -c holdfast -f"]
    for path, commands in groups(COMMANDS):
        known = " ".join(commands)
        seen = "".join(f"__fish_seen_subcommand_from {word}; and " for word in path)
        condition = f"{seen}not __fish_seen_subcommand_from {known}" if path else "__fish_use_subcommand"
        for name, entry in commands.items():
            lines.append(f"complete -c holdfast -n '{condition}' -a {name} -d '{_fish_quoted(entry.help)}'")
    for leaf in leaves(COMMANDS):
        condition = "; and ".join(f"__fish_seen_subcommand_from {word}" for word in leaf.path)
        for option in leaf.options:
            values = _fish_names(option.names) if option.names else " ".join(option.choices)
            value = f" -x -a '{values}'" if values else " -r" * option.takes_value
            words = f"-l {option.name[2:]}{value} -d '{_fish_quoted(option.help)}'"
            lines.append(f"complete -c holdfast -n '{condition}' {words}")
        if leaf.names:
            lines.append(f"complete -c holdfast -n '{condition}' -a '{_fish_names(leaf.names)}'")
        for choice in leaf.choices:
            lines.append(f"complete -c holdfast -n '{condition}' -a {choice}")
    return "\n".join([*lines, ""])


def run(arguments: argparse.Namespace) -> int:
    """Always 0: a daemon that does not answer knows no names."""
    if arguments.shell in NAMES:
        from holdfast.cli.names import known_names

        print(*known_names(arguments.shell), sep="\n")
        return 0
    print({"bash": bash, "zsh": zsh, "fish": fish}[arguments.shell](), end="")
    return 0
