"""`python -m melfusion <verb> [CONFIG] [key=value …]`: one verb each, options everywhere of the form key=value."""

from __future__ import annotations

import difflib
import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

from melfusion import DEFAULT_CONFIG
from melfusion.assembly.configuration import check_overrides, load_config
from melfusion.errors import ConfigError, explain, thread_failed
from melfusion.verbs.options import from_environment, parse


def _train(config: str, options: list[str]) -> None:
    settings = load_config(config, options)

    from melfusion.cluster.slurm import refuse_login_node
    from melfusion.verbs.train import run

    if config != DEFAULT_CONFIG:
        refuse_login_node(os.environ)
    run(settings)


def _release_scenes(config: str, options: list[str]) -> None:
    parse(options, {})

    from melfusion.lab.recipes import release

    release()


def _generate(config: str, options: list[str]) -> None:
    from melfusion.verbs.options import GENERATE, check_generate

    given = from_environment({"IMAGE": "image", "PROMPT": "prompt", "OUT": "out", "CKPT": "ckpt"}) | parse(options, GENERATE)
    check_generate(given)

    from melfusion.verbs.generate import generate

    generate(given)


def _precompute(config: str, options: list[str]) -> None:
    settings = load_config(config, options)

    from melfusion.assembly import system as build
    from melfusion.data.sources import describe, ensure_corpus
    from melfusion.training.precompute import precompute
    from melfusion.training.run import ensure_stages

    ensure_corpus(settings)
    ensure_stages(settings)
    print(describe(str(precompute(settings, build.system(settings)))))
    if not settings.data.precompute.enabled:
        print("Training looks at these with data.precompute.enabled=true, which this configuration has not.")


def _evaluate(config: str, options: list[str]) -> None:
    from melfusion.verbs.options import EVALUATE, check_evaluate

    own, others = _split(options, EVALUATE)
    given = from_environment({"CKPT": "ckpt", "OUT": "out"}) | parse(own, EVALUATE)
    check_evaluate(given)
    check_overrides(others)

    from melfusion.verbs.evaluate import run

    run(config, given, others)


def _ablate(config: str, options: list[str]) -> None:
    from melfusion.lab.suite import load_suite
    from melfusion.verbs.options import ABLATE
    from melfusion.verbs.submit import load_cluster

    own, others = _split(options, ABLATE)
    given = from_environment({"SUITE": "suite"}) | parse(own, ABLATE)
    if given.get("suite"):
        load_suite(given["suite"], load_cluster(others)[2])

    from melfusion.cluster.slurm import refuse_login_node
    from melfusion.verbs.ablate import ablate

    if given.get("cluster") is None:
        refuse_login_node(os.environ)
    ablate(given, others)


def _submit(words: str, options: list[str]) -> None:
    from melfusion.verbs.submit import submit

    verb, *names = words.split(",")
    known = [v for v in VERBS if v not in ("submit", "tensorboard")]
    if verb not in known:
        near = difflib.get_close_matches(verb, known, n=1)
        raise ConfigError(f"submit sends one of {', '.join(known)}, not {verb!r}{f'; did you mean {near[0]}?' if near else ''}.")
    if stray := _stray(verb, names):
        raise ConfigError(stray)
    submit(verb, names, options, os.environ.get("CONFIG") or DEFAULT_CONFIG)


def _listening(folder: str, options: list[str]) -> None:
    folder = parse(options, {"dir": str}).get("dir") or folder
    if not folder:
        raise ConfigError("listening needs the folder of a study: `melfusion listening dir=FOLDER`.")

    from melfusion.evaluation.study import report

    report(Path(folder))


def _shards(config: str, options: list[str]) -> None:
    from melfusion.data.options import SHARDS

    given = from_environment({name.upper(): name for name in SHARDS}) | parse(options, SHARDS)

    from melfusion.data.manifest.build import build_from_manifest

    print(build_from_manifest(**given))


def _data_scenes(config: str, options: list[str]) -> None:
    settings = load_config(config, options)

    from melfusion.data.sources import build_corpus, describe

    build_corpus("scenes", settings)
    print(describe(settings.data.path))


def _data_games(config: str, options: list[str]) -> None:
    settings = load_config("games" if config == DEFAULT_CONFIG else config, options)

    from melfusion.data.sources import build_corpus, describe

    unpacked = os.environ.get("GAMES_DIR")
    build_corpus("games", settings, Path(unpacked) if unpacked else None)
    print(describe(settings.data.path))


def _torture(config: str, options: list[str]) -> None:
    from melfusion.verbs.options import TORTURE

    given = {"goodput": "tiny"} | parse(options, TORTURE)

    from melfusion.torture.report import torture
    from melfusion.torture.scenarios import TortureError

    if not torture(**given):
        raise TortureError("a fault cost something, see the table.")


def _tensorboard(config: str, options: list[str]) -> None:
    from tensorboard import main as board

    os.execv(sys.executable, [sys.executable, "-m", board.__name__, "--logdir", "runs", *options])


VERBS: dict[str, Callable[[str, list[str]], None]] = {
    "train": _train,
    "evaluate": _evaluate,
    "ablate": _ablate,
    "generate": _generate,
    "precompute": _precompute,
    "shards": _shards,
    "listening": _listening,
    "release-scenes": _release_scenes,
    "data-scenes": _data_scenes,
    "data-games": _data_games,
    "submit": _submit,
    "torture": _torture,
    "tensorboard": _tensorboard,
}


def _stray(verb: str, names: list[str]) -> str | None:
    """A sentence on the first word that this verb has no use for."""
    unused = names if verb in ("generate", "shards") else names[1:] if verb == "listening" else []
    return f"{unused[0]!r} is no key=value; quote values that hold spaces." if unused else None


def _split(options: list[str], own: dict[str, type]) -> tuple[list[str], list[str]]:
    """A verb's own options, and the others, which are keys of configurations."""
    ours = [item for item in options if item.partition("=")[0] in own]
    return ours, [item for item in options if item not in ours]


def main(argv: list[str] | None = None) -> int:
    """Entry point; errors a user can mend are one sentence and exit code 2 (errors.py), with their traceback where the
    environment has MELFUSION_TRACEBACK."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] not in VERBS:
        near = difflib.get_close_matches(args[0], VERBS, n=1) if args else []
        print(
            f"usage: melfusion VERB [CONFIG] [key=value …]; verbs: {', '.join(VERBS)}"
            + (f"; did you mean {near[0]}?" if near else ""),
            file=sys.stderr,
        )
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
    hook, threading.excepthook = threading.excepthook, thread_failed
    try:
        VERBS[args[0]](config, [a for a in args[1:] if "=" in a])
        sys.stdout.flush()  # here and not at exit, where nobody would say that it cannot be written
    except BaseException as error:
        told = None if os.environ.get("MELFUSION_TRACEBACK") else explain(error)
        if told is None:
            raise
        if told[0]:
            print(f"melfusion {args[0]}: {told[0]}", file=sys.stderr)
        return told[1]
    finally:
        threading.excepthook = hook
    return 0


if __name__ == "__main__":
    sys.exit(main())
