"""`python -m melfusion <verb> [CONFIG] [key=value …]`: one verb each, options everywhere of the form key=value."""

from __future__ import annotations

import difflib
import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

from melfusion import DEFAULT_CONFIG

TRUTHS = {"true": True, "false": False}


def _train(config: str, options: list[str]) -> None:
    from melfusion.config import load_config
    from melfusion.run import refuse_login_node
    from melfusion.train import train

    settings = load_config(config, options)
    if config != DEFAULT_CONFIG:
        refuse_login_node(os.environ)
    train(settings)


def _release_scenes(config: str, options: list[str]) -> None:
    from melfusion.release import release

    _parse(options, {})
    release()


def _generate(config: str, options: list[str]) -> None:
    from melfusion.generate import OPTIONS, generate, options_from_environment

    generate(options_from_environment() | _parse(options, OPTIONS))


def _precompute(config: str, options: list[str]) -> None:
    from melfusion import build
    from melfusion.config import load_config
    from melfusion.data.corpus import describe, ensure_corpus
    from melfusion.precompute import precompute
    from melfusion.train import ensure_stages

    settings = load_config(config, options)
    ensure_corpus(settings)
    ensure_stages(settings)
    print(describe(str(precompute(settings, build.system(settings)))))
    if not settings.data.precompute.enabled:
        print("Training looks at these with data.precompute.enabled=true, which this configuration has not.")


def _evaluate(config: str, options: list[str]) -> None:
    from melfusion.evaluate import OPTIONS, run

    own = [item for item in options if item.partition("=")[0] in OPTIONS]
    environment = {name.lower(): os.environ[name] for name in ("CKPT", "OUT") if os.environ.get(name)}
    run(config, environment | _parse(own, OPTIONS), [item for item in options if item not in own])


def _ablate(config: str, options: list[str]) -> None:
    from melfusion.ablate import OPTIONS, ablate
    from melfusion.run import refuse_login_node

    own = [item for item in options if item.partition("=")[0] in OPTIONS]
    given = {"suite": os.environ["SUITE"]} if os.environ.get("SUITE") else {}
    given |= _parse(own, OPTIONS)
    if given.get("cluster") is None:
        refuse_login_node(os.environ)
    ablate(given, [item for item in options if item not in own])


def _submit(words: str, options: list[str]) -> None:
    from melfusion.config import ConfigError
    from melfusion.submit import submit

    verb, *names = words.split(",")
    known = [v for v in VERBS if v not in ("submit", "tensorboard")]
    if verb not in known:
        near = difflib.get_close_matches(verb, known, n=1)
        raise ConfigError(f"submit sends one of {', '.join(known)}, not {verb!r}{f'; did you mean {near[0]}?' if near else ''}.")
    if stray := _stray(verb, names):
        raise ConfigError(stray)
    submit(verb, names, options, os.environ.get("CONFIG") or DEFAULT_CONFIG)


def _listening(folder: str, options: list[str]) -> None:
    from pathlib import Path

    from melfusion.config import ConfigError
    from melfusion.listening import report

    folder = _parse(options, {"dir": str}).get("dir") or folder
    if not folder:
        raise ConfigError("listening needs the folder of a study: `melfusion listening dir=FOLDER`.")
    report(Path(folder))


def _shards(config: str, options: list[str]) -> None:
    from melfusion.data.manifest import OPTIONS, build_from_manifest

    given = {k: os.environ[k.upper()] for k in OPTIONS if os.environ.get(k.upper())}
    print(build_from_manifest(**(given | _parse(options, OPTIONS))))


def _data_scenes(config: str, options: list[str]) -> None:
    from melfusion.config import load_config
    from melfusion.data.corpus import build_scenes, describe

    settings = load_config(config, options)
    build_scenes(settings)
    print(describe(settings.data.path))


def _data_games(config: str, options: list[str]) -> None:
    from melfusion.config import load_config
    from melfusion.data.corpus import build_games, describe

    settings = load_config("games" if config == DEFAULT_CONFIG else config, options)
    build_games(settings, os.environ.get("GAMES_DIR"))
    print(describe(settings.data.path))


def _torture(config: str, options: list[str]) -> None:
    from melfusion.torture.report import OPTIONS, torture
    from melfusion.torture.scenarios import TortureError

    if not torture(**({"goodput": "tiny"} | _parse(options, OPTIONS))):
        raise TortureError("a fault cost something, see the table.")


def _tensorboard(config: str, options: list[str]) -> None:
    from tensorboard import main as board

    os.execv(sys.executable, [sys.executable, "-m", board.__name__, "--logdir", "runs", *options])


VERBS: dict[str, Callable[[str, list[str]], None]] = {
    "train": _train, "evaluate": _evaluate, "ablate": _ablate, "generate": _generate, "precompute": _precompute, "shards": _shards,
    "listening": _listening, "release-scenes": _release_scenes, "data-scenes": _data_scenes, "data-games": _data_games,
    "submit": _submit, "torture": _torture, "tensorboard": _tensorboard,
}  # fmt: skip


def _stray(verb: str, names: list[str]) -> str | None:
    """A sentence on the first word that this verb has no use for."""
    unused = names if verb in ("generate", "shards") else names[1:] if verb == "listening" else []
    return f"{unused[0]!r} is no key=value; quote values that hold spaces." if unused else None


def _parse(options: list[str], known: dict[str, type]) -> dict[str, Any]:
    """['seed=3'] → {'seed': 3}; the text after the first `=` is taken verbatim."""
    from melfusion.config import ConfigError

    parsed: dict[str, Any] = {}
    for item in options:
        key, _, value = item.partition("=")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise ConfigError(f"There is no option {key!r}{f'; did you mean {near[0]!r}?' if near else ''}; "
                              f"known are {', '.join(known) or 'none'}.")  # fmt: skip
        try:
            parsed[key] = TRUTHS[value.lower()] if known[key] is bool else known[key](value)
        except (ValueError, KeyError):
            kind = "true or false" if known[key] is bool else f"a valid {known[key].__name__}"
            raise ConfigError(f"{key}={value!r} is not {kind}.") from None
    return parsed


def main(argv: list[str] | None = None) -> int:
    """Entry point; errors a user can mend are one sentence and exit code 2."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] not in VERBS:
        near = difflib.get_close_matches(args[0], VERBS, n=1) if args else []
        print(f"usage: melfusion VERB [CONFIG] [key=value …]; verbs: {', '.join(VERBS)}"
              + (f"; did you mean {near[0]}?" if near else ""), file=sys.stderr)  # fmt: skip
        return 0 if args and args[0] in ("help", "-h", "--help") else 2
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    for noise in (".*does not have many workers.*", ".*in eval mode at the start.*", ".*LeafSpec.*is deprecated.*"):
        warnings.filterwarnings("ignore", message=noise)
    names = [a for a in args[1:] if "=" not in a]
    if stray := _stray(args[0], names):
        print(f"melfusion {args[0]}: {stray}", file=sys.stderr)
        return 2
    unnamed = {"listening": os.environ.get("DIR", ""), "submit": ""}
    config = ",".join(names) or unnamed.get(args[0], os.environ.get("CONFIG") or DEFAULT_CONFIG)
    try:
        VERBS[args[0]](config, [a for a in args[1:] if "=" in a])
    except (ValueError, RuntimeError) as error:
        if type(error).__module__.startswith("melfusion"):
            print(f"melfusion {args[0]}: {error}", file=sys.stderr)
            return getattr(error, "code", 2)
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
