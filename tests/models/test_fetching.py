"""Published weights come with their commit and licence; what cannot be had is one sentence."""

import json
from types import SimpleNamespace

import pytest
from data_fixtures import one_sentence

from melfusion.errors import WeightsError
from melfusion.models.fetching import fetch
from melfusion.models.licences import fetched_licence, licence_of


@pytest.fixture
def hub(monkeypatch):
    import huggingface_hub

    asked = []

    class Api:
        def model_info(self, repository, revision=None):
            if repository.startswith("nobody"):
                raise OSError("401 Client Error")
            return SimpleNamespace(sha="c" * 40, card_data={"license": "cc-by-nc-4.0"})

    def download(repository, revision, local_dir, ignore_patterns):
        asked.append((repository, revision, "*.py" in ignore_patterns))
        local_dir.mkdir(parents=True, exist_ok=True)
        (local_dir / "model_index.json").write_text("{}")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return asked


def test_commit_and_licence_lie_beside_the_weights(hub, tmp_path):
    assert fetch("somebody/model", tmp_path / "model") == "cc-by-nc-4.0"
    assert hub == [("somebody/model", "c" * 40, True)]
    note = json.loads((tmp_path / "model" / "source.json").read_text())
    assert note["commit"] == "c" * 40 and note["repository"] == "somebody/model" and "no commercial" in note["allows"]
    assert fetched_licence(tmp_path / "model") == "cc-by-nc-4.0"
    (tmp_path / "model" / "vae").mkdir()
    assert licence_of(str(tmp_path / "model:vae"), tmp_path / "model" / "vae") == "cc-by-nc-4.0"


def test_what_cannot_be_had_is_one_sentence(hub, tmp_path):
    with pytest.raises(WeightsError, match="nobody/model could not be fetched") as caught:
        fetch("nobody/model", tmp_path / "model")
    one_sentence(caught.value)
    assert not (tmp_path / "model").exists()


def test_a_fetch_that_was_cut_short_goes_on_and_what_is_whole_stays(hub, tmp_path, capsys):
    from melfusion.models import fetching
    from melfusion.verbs.fetch_weights import Options, run

    cut, whole = tmp_path / "cut", tmp_path / "whole"
    cut.mkdir()
    fetching.fetch("somebody/whole", whole)
    hub.clear()
    (cut / "half.safetensors").write_bytes(b"")
    run(Options(config="tiny"), [f"sources={{{cut}: somebody/cut, {whole}: somebody/whole}}"])
    assert [repository for repository, *_ in hub] == ["somebody/cut"] and (cut / "source.json").is_file()
    assert f"{whole}: somebody/whole, licence cc-by-nc-4.0" in (told := capsys.readouterr().out) and told.count("was there") == 1


@pytest.mark.parametrize("sub", ["", ":vocoder"])
def test_licences_lie_beside_parts_of_the_hubs_own_cache(monkeypatch, tmp_path, sub):
    import huggingface_hub

    from melfusion.verbs.fetch_weights import Options, run

    (tmp_path / "vocoder").mkdir()
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **more: str(tmp_path))
    run(Options(config="tiny"), [f"vocoder.weights=hub:somebody/voice@{'d' * 40}{sub}"])
    note = json.loads((tmp_path / "source.json").read_text())
    assert (note["repository"], note["commit"], note["licence"]) == ("somebody/voice", "d" * 40, "mit")
