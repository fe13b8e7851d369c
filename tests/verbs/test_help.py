"""Every verb explains itself at once, from the same tables that parse its options; a file is a verb; shells complete."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from melfusion.__main__ import main
from melfusion.assembly.configuration import load_config
from melfusion.assembly.schema import Config
from melfusion.cluster.options import ClusterConfig
from melfusion.config.check import valid_keys
from melfusion.errors import ConfigError
from melfusion.verbs import help as texts
from melfusion.verbs.options import MANY, configuration, named, option, parse, read
from melfusion.verbs.table import VERBS, module_of, summary

SLOW = ("torch", "lightning", "diffusers", "transformers", "omegaconf", "matplotlib", "numpy", "yaml")
BUDGET_S = 0.5  # of processor time, for one call of --help with the start of Python

CHILD = """
import io, json, sys
from contextlib import redirect_stdout
from melfusion.__main__ import main
answers = {}
for call in json.load(sys.stdin):
    with redirect_stdout(io.StringIO()) as out:
        code = main(call)
    answers[" ".join(call)] = [code, out.getvalue(), [name for name in json.loads(sys.argv[1]) if name in sys.modules]]
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers():
    """Call → exit code, text and slow imports, of one process that is asked all."""
    calls = [["--help"], ["help"], ["-h"], *([verb, "--help"] for verb in VERBS)]
    calls += [["help", "train"], ["train", "--help", "data"], ["generate", "seed=3", "-h"], ["submit", "--help", "cluster"]]
    command = [sys.executable, "-c", CHILD, json.dumps(SLOW)]
    done = subprocess.run(command, input=json.dumps(calls), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_help_is_given_without_any_slow_import(answers):
    assert {call: (code, slow) for call, (code, _, slow) in answers.items() if code or slow} == {}


def test_help_names_every_verb_in_one_line(answers):
    for call in ("--help", "help", "-h"):
        for verb in VERBS:
            assert re.search(rf"^  {verb} +{re.escape(summary(verb))}$", answers[call][1], re.MULTILINE)
            assert len(summary(verb)) < 110 and summary(verb).endswith(".")


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_has_its_options_defaults_and_two_examples(verb, answers):
    module, text = module_of(verb), answers[f"{verb} --help"][1]
    plain = " ".join(text.split())
    assert text.startswith(f"usage: melfusion {verb}") and summary(verb) in text
    for name, field in named(module.Options).items():
        default = "needed" if field.metadata["required"] else f"default {texts.shown(field.default)}"
        assert re.search(rf"^  {re.escape(name)}=(TEXT|INT|FLOAT|true\|false) ", text, re.MULTILINE)
        assert f"{field.metadata['about']} ({default}" in plain
    assert len(module.EXAMPLES) >= 2 and all(example in text for example in module.EXAMPLES)


def test_a_section_is_shown_alone_and_train_shows_all(answers):
    data = answers["train --help data"][1]
    assert "data.max_audio_s " in data and "audio.n_mels" not in data and "usage" not in data
    assert answers["help train"][1] == answers["train --help"][1]
    assert "cluster.time" in answers["submit --help cluster"][1]
    assert "duration_s=FLOAT" in answers["generate seed=3 -h"][1]
    for key in valid_keys(Config):
        assert re.search(rf"^  {re.escape(key)} ", answers["train --help"][1], re.MULTILINE), key


def test_every_key_says_what_it_means():
    rows = {key: about for section in texts.sections() for key, about in texts.keys(section).items()}
    assert set(rows) >= {*valid_keys(Config), *(f"cluster.{key}" for key in valid_keys(ClusterConfig))}
    assert [key for key, about in rows.items() if about.startswith("(default")] == []
    with pytest.raises(ConfigError, match="no section 'datta'; did you mean 'data'"):
        texts.keys("datta")


@dataclass
class Part:
    kind: str = "plain"  # plain | loud


@dataclass
class Loud(Part):
    # where it ends
    level_db: float = -3.0  # dB below full scale


def test_the_keys_of_all_kinds_of_a_part_are_shown():
    assert texts.described(Part, "part.") == {
        "part.kind": "plain | loud (default plain)",
        "part.level_db": "where it ends dB below full scale (default -3.0)",
    }
    assert list(texts.described(Loud, "")) == ["kind", "level_db"]


def test_help_is_quick():
    """In processor time, which other processes on this machine hardly change."""
    code = """if True:
        import sys, time
        from melfusion.__main__ import main
        main(sys.argv[1:])
        sys.stderr.write(str(time.process_time()))"""
    call = [sys.executable, "-c", code]
    spent = []
    for verb in ("train", "generate"):
        done = [subprocess.run([*call, verb, "--help"], capture_output=True, text=True) for _ in range(2)]
        spent.append(min(float(d.stderr) for d in done))
    assert max(spent) <= BUDGET_S, spent


def test_heavy_imports_leave_the_collector_as_it_was():
    code = """if True:
        import gc, sys
        from melfusion.verbs.imports import heavy_imports
        with heavy_imports():
            assert not gc.isenabled()
        assert gc.isenabled() and gc.get_freeze_count()
        gc.unfreeze()
        sys.modules["torch"] = None
        with heavy_imports():
            assert gc.isenabled()
        assert not gc.get_freeze_count()"""
    subprocess.run([sys.executable, "-c", code], check=True)


# --- options ----------------------------------------------------------------------------------------------------------


def test_where_a_value_comes_from():
    @dataclass
    class Options:
        config: str = configuration("scenes")
        text: str = option("", "any text", variable="TEXT")
        share: float = option(0.5, "of it")
        yes: bool = option(False, "or no")

    def given(words=(), *items, **environment):
        return parse(Options, list(words), list(items), environment)

    assert given() == Options("scenes", "", 0.5, False)
    assert given(["a", "b"], CONFIG="c").config == "a,b" and given(CONFIG="c").config == "c" and given(CONFIG="").config == "scenes"
    assert given(["a"], "config=d").config == "d" and given((), "text=", TEXT="x").text == ""
    assert given((), "text=a=b: #1", "yes=True", "share=1e-3") == Options("scenes", "a=b: #1", 1e-3, True)
    for items, words in (
        ("share=nan", "share=nan must be a finite number"),
        ("yes=1", "yes='1' is not true or false"),
        ("shre=1", "no option 'shre'; did you mean 'share'"),
    ):
        with pytest.raises(ConfigError, match=words):
            given((), items)
    with pytest.raises(ConfigError, match="'x' is no key=value"):
        given(["x"] * (MANY + 1))


# --- completion -------------------------------------------------------------------------------------------------------


def test_bash_completes_verbs_options_configurations_and_keys(tmp_path):
    with (tmp_path / "script").open("w") as to:
        subprocess.run([sys.executable, "-m", "melfusion", "completion", "bash"], stdout=to, check=True)

    def complete(*words):
        """What bash offers behind these words."""
        call = """source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); compopt() { :; }
            _melfusion; printf '%s\\n' "${COMPREPLY[@]}" """
        done = subprocess.run(["bash", "-c", call, tmp_path / "script", *words], capture_output=True, text=True)
        assert not done.stderr
        return done.stdout.split()

    assert complete("melfusion", "tr") == ["train"] and set(VERBS) <= set(complete("melfusion", ""))
    assert complete("melfusion", "generate", "ima") == ["image=", "image_guidance_scale="]
    assert complete("melfusion", "train", "gam") == ["games"]
    assert complete("melfusion", "train", "games,ti") == ["games,tiny"]
    assert complete("melfusion", "train", "trainer.max_s") == ["trainer.max_steps="]
    assert complete("melfusion", "submit", "train", "cluster.par") == ["cluster.partition="]
    assert complete("melfusion", "submit", "gene") == ["generate"]
    assert complete("melfusion", "generate", "image", "=", "ca") == []  # files: bash's own default
    assert complete("melfusion", "completion", "") == ["--help", "bash", "zsh", "shell="]


def test_the_script_of_zsh_holds_the_same_words(capsys):
    assert main(["completion", "zsh"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("#compdef melfusion\n") and all(f"        {verb}) words_=" in said for verb in VERBS)
    assert "trainer.max_steps=" in said and "'melbench'" not in said and "melbench" in said


# --- the Makefile -----------------------------------------------------------------------------------------------------


def test_make_has_a_target_for_every_verb_and_help_lists_all_targets():
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    targets = dict(re.findall(r"^([a-z-]+):.*?##\s*(.*)$", makefile, re.MULTILINE))
    assert set(VERBS) - {"completion"} <= set(targets)
    assert set(re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split()) == set(targets)
    variables = {f.metadata["variable"] for verb in VERBS for f in named(module_of(verb).Options).values()} - {""}
    passed = set(re.search(r"foreach name,([A-Z_ ]+),\$\(eval", makefile)[1].split())
    assert passed - {"PYTHON"} <= variables


def test_examples_of_configurations_load():
    for verb in ("train", "precompute", "data-scenes", "data-games"):
        for example in module_of(verb).EXAMPLES:
            options, keys = read(module_of(verb), example.split()[2:], {})
            load_config(options.config, keys)
