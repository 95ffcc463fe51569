"""`tood completion`: what lets a shell complete commands, options, and the names of runs and studies."""

import argparse
from collections.abc import Callable, Iterable, Sequence

_ASK = "tood completion --words"  # the words of the command line follow
SCRIPTS = {
    "bash": f"""_tood() {{
    local IFS=$'\\n'
    COMPREPLY=($({_ASK} "${{COMP_WORDS[@]:1:COMP_CWORD}}" 2>/dev/null))
}}
complete -o default -F _tood tood
""",
    "zsh": f"""#compdef tood
_tood() {{
    local -a found
    found=(${{(f)"$({_ASK} "${{(@)words[2,CURRENT]}}" 2>/dev/null)"}})
    if (( $#found )); then compadd -Q -- $found; else _files; fi
}}
compdef _tood tood
""",
    "fish": f"""function __tood_words
    {_ASK} (commandline -opc)[2..-1] "$(commandline -ct)" 2>/dev/null
end
complete -c tood -a '(__tood_words)'
""",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.description = (
        "print what lets a shell complete commands, options, runs and studies; for bash put "
        'eval "$(tood completion bash)" into ~/.bashrc, for zsh the same with zsh into ~/.zshrc, for fish '
        "tood completion fish | source into config.fish"
    )
    parser.add_argument("shell", choices=list(SCRIPTS))


def run(options: argparse.Namespace) -> int:
    """Print the script of a shell."""
    print(SCRIPTS[options.shell], end="")
    return 0


def candidates(
    words: Sequence[str], commands: Iterable[str], parser_of: Callable[[str], argparse.ArgumentParser]
) -> list[str]:
    """What may stand in the place of the last word; empty where the shell should complete files.

    Args:
        words: what was typed after `tood`, the last one in part.
        commands: names of the commands.
        parser_of: returns the parser of a command.
    """
    *before, begun = words or [""]
    if not before:
        return [name for name in commands if name.startswith(begun)]
    if before[0] not in commands:
        return []
    actions = parser_of(before[0])._actions
    if begun.startswith("-"):
        names = [name for action in actions for name in action.option_strings]
    else:
        argument = next((action for action in actions if before[-1] in action.option_strings), None)
        if argument is None or argument.nargs == 0:
            argument = next((action for action in actions if not action.option_strings), None)
        names = _values(argument) if argument else []
    return [name for name in names if name.startswith(begun)]


def _values(action: argparse.Action) -> list[str]:
    """The values that an argument may have, if they can be listed."""
    if action.choices:
        return [str(choice) for choice in action.choices]
    if action.metavar == "RUN":
        from tood.study.declarations import load_runs

        return list(load_runs())
    if action.metavar == "STUDY":
        from tood.ledger.studies import called_studies, recorded_studies

        return list(called_studies() | recorded_studies())
    if action.dest == "scale":
        from tood.study.scales import scale_names

        return scale_names()
    if action.metavar == "KEY=VALUE":
        from tood.study.options import Study

        return [f"{name}=" for name in Study.model_fields]
    return []
