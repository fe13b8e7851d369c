"""Which share of a list a process makes."""

import pytest

from melfusion.cluster.shares import place_of, share_of
from melfusion.errors import ConfigError

ARRAY = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_STEP": "2", "SLURM_ARRAY_TASK_COUNT": "4"}
STEP = {"SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_STEP_ID": "0"}


def test_alone_ranks_array_and_both():
    assert share_of({}) == (0, 1) and place_of({}) == 0
    assert share_of({"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}) == (2, 4)
    assert share_of(STEP) == (3, 4) and place_of(STEP) == 1
    assert share_of({"SLURM_NTASKS": "4"}) == (0, 1)  # the batch script itself, without srun
    assert share_of(ARRAY) == (2, 4)
    assert share_of(ARRAY | STEP) == (11, 16)
    assert share_of({}, (1, 2)) == (1, 2) and share_of(ARRAY, (1, 2)) == (5, 8) and share_of(STEP, (1, 2)) == (3, 4)
    shares = {
        share_of(ARRAY | STEP | {"SLURM_ARRAY_TASK_ID": str(i), "SLURM_PROCID": str(k)}) for i in (3, 5, 7, 9) for k in range(4)
    }
    assert shares == {(i, 16) for i in range(16)}


def test_an_array_with_gaps_is_refused():
    with pytest.raises(ConfigError, match="not evenly spaced"):
        share_of({"SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_COUNT": "3"})
