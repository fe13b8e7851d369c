"""`python -m melfusion VERB [key=value …]`: find the verb, read its options, turn errors into exit codes (docs/exit_codes.md)."""

from __future__ import annotations

import logging
import os
import sys
import warnings

from melfusion.config.check import nearest
from melfusion.errors import reported
from melfusion.verbs.options import read
from melfusion.verbs.table import VERBS, module_of

HELP = ("help", "--help", "-h")
NOISE = (".*does not have many workers.*", ".*in eval mode at the start.*", ".*LeafSpec.*is deprecated.*")  # of libraries


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns the exit code.

    An error that a user can mend is one sentence on stderr. Where the environment has MELFUSION_TRACEBACK, it is raised.
    """
    verb, *arguments = list(sys.argv[1:] if argv is None else argv) or [""]
    asked = verb in HELP or not set(HELP[1:]).isdisjoint(arguments)
    if verb in HELP:
        verb, arguments = (arguments[0], arguments[1:]) if arguments else ("", [])
    if verb not in VERBS and (verb or not asked):
        usage = f"usage: melfusion VERB [key=value …]; verbs: {', '.join(VERBS)}"
        print(f"{usage}{nearest(verb, VERBS)}", file=sys.stderr)
        return 2
    quieten()

    def call() -> None:
        if asked:
            print_help(verb, [word for word in arguments if word not in HELP and "=" not in word])
        else:
            module = module_of(verb)
            module.run(*read(module, arguments, os.environ))

    return reported(verb, call)


def quieten() -> None:
    """Warnings that libraries give of what is meant are not shown."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    for message in NOISE:
        warnings.filterwarnings("ignore", message=message)


def print_help(verb: str, sections: list[str]) -> None:
    """All verbs, or one with its options, or sections of the configuration."""
    from melfusion.verbs import help as texts

    print(texts.of_verb(verb, sections) if verb else texts.of_all())


if __name__ == "__main__":
    sys.exit(main())
