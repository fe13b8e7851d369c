"""The verbs of the command line, one file each.

A file in this folder is a verb; its name with `-` for `_` is the verb's name (table.py). It holds:

- a docstring: its first line stands in `melfusion --help`, all of it in `melfusion VERB --help`;
- `Options`: a dataclass, each field made by `options.option`, with its default, unit and limits;
- `MORE`: one sentence on what the verb takes beside these options, such as keys of the configuration, or None;
- `SECTIONS`: sections of the configuration that its help lists;
- `EXAMPLES`: two calls;
- `run(options, more)`: checks its arguments first, then imports what it uses. `more` holds each `key=value` that is no field of
  `Options`.

Nothing slow is imported at the top of such a file, so that help and mistakes are answered at once.
"""
