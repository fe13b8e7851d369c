"""Print a script that completes verbs, options, configurations and keys in bash or zsh.

The script is made from the tables that `--help` reads. The examples load it into a running shell; the same line in ~/.bashrc or
~/.zshrc (there after compinit) loads it into each new one.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from melfusion.errors import ConfigError
from melfusion.verbs.options import named, option


@dataclass
class Options:
    shell: str = option("", "the shell, bash or zsh", words=1, required=True)


MORE = None
SECTIONS = ()
EXAMPLES = ("source <(melfusion completion bash)", "source <(melfusion completion zsh)")

BASH = """_melfusion() {{
    local verbs={verbs} word=${{COMP_WORDS[COMP_CWORD]}} words= front=
    case ${{COMP_WORDS[1]}} in
{cases}
    esac
    [ "$COMP_CWORD" = 1 ] && words="$verbs"
    [ "${{COMP_WORDS[COMP_CWORD-1]}}" = "=" ] || [ "$word" = "=" ] && words=
    case $word in *,*) front=${{word%,*}}, word=${{word##*,}} ;; esac
    COMPREPLY=($(compgen -P "$front" -W "$words" -- "$word"))
    case ${{COMPREPLY[0]-}} in *=) compopt -o nospace ;; esac
}}
complete -o default -F _melfusion melfusion
"""

ZSH = """#compdef melfusion
_melfusion() {{
    local verbs={verbs} words_=
    case ${{words[2]}} in
{cases}
    esac
    (( CURRENT == 2 )) && words_=$verbs
    local -a ends whole
    whole=(${{(M)=words_:#*[^=]}}) ends=(${{(M)=words_:#*=}})
    if [[ $PREFIX == *=* ]]; then
        compset -P '*=' && _files
    else
        compset -P '*,'
        compadd -- $whole
        compadd -S '' -- $ends
    fi
}}
compdef _melfusion melfusion
"""

SHELLS = {"bash": (BASH, "words"), "zsh": (ZSH, "words_")}


def run(options: Options, more: list[str]) -> None:
    """Print the script."""
    if options.shell not in SHELLS:
        raise ConfigError(f"shell={options.shell!r} is not one of {', '.join(SHELLS)}.")
    template, variable = SHELLS[options.shell]
    found = completions()
    cases = "\n".join(f"        {verb}) {variable}={shlex.quote(' '.join(words))} ;;" for verb, words in found.items())
    print(template.format(verbs=shlex.quote(" ".join([*found, "help"])), cases=cases), end="")


def completions() -> dict[str, list[str]]:
    """Verb → the words that may follow it; those that end in `=` want a value."""
    from melfusion.verbs import help as texts
    from melfusion.verbs.table import VERBS, module_of

    found = {}
    for verb in VERBS:
        module = module_of(verb)
        keys = [key for section in texts.sections() if module.SECTIONS for key in texts.keys(section)]
        if verb != "submit":
            keys = [key for key in keys if not key.startswith("cluster.")]
        names = texts.configurations() if "config" in named(module.Options) else []
        shells = list(SHELLS) if module.Options is Options else []
        found[verb] = ["--help", *names, *shells, *(f"{name}=" for name in [*named(module.Options), *keys])]
    found["submit"] = [*found["train"], *found["submit"], *VERBS]
    return {verb: list(dict.fromkeys(words)) for verb, words in found.items()}
