"""The progress bar counts steps of the run."""

import sys

import pytest
from training_jobs import Run


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda self: True, raising=False)


def test_it_says_steps_of_steps_and_the_time_left_also_after_a_resume(tiny_corpus, tmp_path, capsys, request):
    run, options = Run(tmp_path, tiny_corpus), ("trainer.progress_bar=true", "data.global_batch_size=8")
    assert run(*options, steps=1) == 0
    assert "step:" not in capsys.readouterr().out  # a log gets no bar
    request.getfixturevalue("terminal")
    assert run(*options, steps=3, val=3) == 0  # 16 samples: the second pass over them begins
    said = capsys.readouterr().out
    for words in ("step: 1 of 3 |", "step: 3 of 3 |", " left, ", "loss=", "validation batch: 1 of 1 |"):
        assert words in said
    for noise in ("Epoch", "v_num", "DataLoader", "-2"):
        assert noise not in said
