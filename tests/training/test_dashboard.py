"""TensorBoard as a dashboard: which charts stand together, the map of α, and the page about the run."""

import re
import subprocess
from functools import partial
from types import SimpleNamespace

import numpy as np

from melfusion.data.options import DataConfig
from melfusion.data.shards import ShardSet
from melfusion.lab.results import columns
from melfusion.media.figures import layers_figure
from melfusion.training.dashboard import LAYOUT, about, curves_in, digest_of_shards, revision
from melfusion.training.loggers import Board, log_hparams


def chart(tag):
    """Titles of the charts that show a tag, by the plug-in's rule."""
    return [
        title
        for charts in LAYOUT.values()
        for title, (_, tags) in charts.items()
        if any(re.match(pattern, tag) for pattern in tags)
    ]


def test_curves_that_are_compared_stand_in_one_chart():
    assert chart("val/loss") == chart("val/loss_other_picture") != []
    assert chart("synapse/alpha/decoder1/head0") == chart("synapse/alpha/decoder2/head3") == ["α"]
    assert chart("val/picture_gain") != chart("val/loss") and chart("train/loss") == []
    assert chart("data/replaced/silent") and not chart("data/replaced_by_shard/x/silent")
    assert all(len(chart(tag)) == 1 for tag in ("data/wait_share", "train/samples_per_s", "memory/gpu_peak_gib"))


def test_tensorboard_takes_the_layout(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = Board(tmp_path, 0)
    board.write(lambda writer: writer.add_custom_scalars(LAYOUT))
    board.finalize("success")
    tags = EventAccumulator(str(tmp_path / "tensorboard")).Reload().PluginTagToContent("custom_scalars")
    assert tags


def test_the_map_of_alphas_is_read_from_the_runs_own_lines(tmp_path):
    file = tmp_path / "metrics.jsonl"
    assert curves_in(file, "synapse/alpha") == {}
    file.write_text(
        '{"step": 1, "train/loss": 2.0}\n{"step": 1, "synapse/alpha/a": 0.1, "synapse/alpha/b": null}\n'
        '{"step": 2, "synapse/alpha/a": 0.3, "synapse/alpha/b": 0.2}\n{"step": 3, "synapse/alpha/a"'
    )
    curves = curves_in(file, "synapse/alpha")
    assert curves == {"a": {1: 0.1, 2: 0.3}, "b": {2: 0.2}}
    drawn = layers_figure(curves, "α").axes[0].images[0].get_array()
    np.testing.assert_array_equal(np.ma.filled(drawn, -1), [[0.1, 0.3], [-1, 0.2]])


def test_the_page_names_data_and_configuration(tiny, tiny_corpus):
    shards = ShardSet(str(tiny_corpus), DataConfig())
    page = about(tiny(f"data.path={tiny_corpus}"), shards)
    assert f"`{digest_of_shards(shards)}`" in page and str(tiny_corpus) in page
    assert "\n\n#### Configuration\n\n    " in page and "\n    synapse:\n" in page  # code after a list would be part of it
    other = SimpleNamespace(shards=shards.shards[:-1], info={})
    assert digest_of_shards(other) != digest_of_shards(shards)
    assert "digest" not in about(tiny(), None)  # a stream has no index here


def test_the_revision_is_that_of_the_tree_and_none_elsewhere(tmp_path, monkeypatch):
    assert revision(tmp_path) is None

    def git(*words):
        me = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.run(["git", "-C", tmp_path, *me, *words], check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    assert revision(tmp_path) is None  # no commit yet
    (tmp_path / "a").write_text("a")
    git("add", "a")
    git("commit", "-qm", "a")
    head = git("rev-parse", "HEAD")
    assert revision(tmp_path) == head
    (tmp_path / "a").write_text("b")
    assert revision(tmp_path) == f"{head}+"
    (tmp_path / "site").mkdir()
    assert revision(tmp_path / "site") is None  # installed into a folder that the tree does not hold
    monkeypatch.setenv("PATH", "")
    assert revision(tmp_path) is None


def test_new_curves_stand_in_charts_of_their_own():
    assert chart("synapse/attention/down_blocks.0") != chart("synapse/alpha/x") and len(chart("synapse/attention/x")) == 1
    right, shuffled = (chart(f"listening/{row} picture/place") for row in ("right", "shuffled"))
    assert len(right) == len(shuffled) == 1 and right != shuffled
    assert len(chart("train/share_of_peak")) == 1 and chart("train/share_of_peak") != chart("train/samples_per_s")


def test_a_run_leaves_the_columns_of_hparams_to_what_differs_and_a_suite_names_them(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for name, scores in (("run", ()), ("row", ("attributes/place/accuracy",))):
        board = Board(tmp_path / name, 0)
        board.write(partial(log_hparams, flat={"synapse.kind": name, "layers": ["a"]}, scores=scores))
        board.finalize("success")
    tags = [set(EventAccumulator(str(tmp_path / n / "tensorboard")).Reload().PluginTagToContent("hparams")) for n in ("run", "row")]
    assert tags[1] - tags[0] == {"_hparams_/experiment"} and "_hparams_/session_start_info" in tags[0]
    tree = {"name": "a", "runs_dir": "x", "seed": 0, "layers": ["all"]}
    assert columns([tree, tree | {"name": "b", "layers": ["mid"]}, tree | {"runs_dir": "y", "new": 1}]) == ["layers", "new"]
