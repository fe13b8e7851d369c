"""sbatch, srun, scontrol and apptainer as shell scripts that record their arguments and, where told, do what SLURM would."""

import os
from pathlib import Path

RECORD = 'printf "%s\\n" "$@" >> "$SLURM_STUBS/$(basename "$0")"\n'

# runs the script at once, as the batch step of job 4242, where the file `run` is there
SBATCH = (
    RECORD
    + """
[ ! -e "$SLURM_STUBS/refuse" ] || { echo "sbatch: error: invalid partition specified: nowhere" >&2; exit 1; }
echo "Submitted batch job 4242"
[ -e "$SLURM_STUBS/run" ] || exit 0
asked() { sed -n "s/^#SBATCH --$1=//p" "$script"; }
script=$1
export SLURM_JOB_ID=4242 SLURM_JOB_NAME=$(asked job-name) SLURM_NNODES=$(asked nodes) SLURM_NODELIST=127.0.0.1
export SLURM_NTASKS_PER_NODE=$(asked ntasks-per-node)
export SLURM_NTASKS=$((SLURM_NNODES * SLURM_NTASKS_PER_NODE)) SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0
log=$(asked output)
bash "$script" >> "${log/\\%j/4242}" 2>&1
echo $? > "$SLURM_STUBS/status"
"""
)

# starts all tasks at once with the variables that srun gives, or leaves with the number in the file `code`
SRUN = (
    RECORD
    + """
[ ! -e "$SLURM_STUBS/code" ] || exit "$(cat "$SLURM_STUBS/code")"
while [[ $1 == -* ]]; do [ "$1" != --output ] || { log=$2; shift; }; shift; done
started=()
for ((task = 0; task < SLURM_NTASKS; task++)); do
  export SLURM_STEP_ID=0 SLURM_PROCID=$task
  export SLURM_LOCALID=$((task % SLURM_NTASKS_PER_NODE)) SLURM_NODEID=$((task / SLURM_NTASKS_PER_NODE))
  to=${log/\\%j/$SLURM_JOB_ID}
  "$@" >> "${to/\\%t/$task}" 2>&1 &
  started+=($!)
done
worst=0
for pid in "${started[@]}"; do wait "$pid" || { code=$?; ((code > worst)) && worst=$code; }; done
exit $worst
"""
)


def write(folder: Path) -> Path:
    """The programs into a folder for the PATH, which is returned; each needs SLURM_STUBS=folder."""
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "scontrol": RECORD, "apptainer": RECORD}.items():
        program = folder / "bin" / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text("#!/bin/bash\n" + text)
        program.chmod(0o755)
    return folder / "bin"


def install(folder: Path, monkeypatch, run: bool = False) -> Path:
    """Put the stubs first on the PATH; what they were told lies in the returned folder, one file for each program."""
    programs = write(folder)
    for name in [n for n in os.environ if n.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setenv("SLURM_STUBS", str(folder))
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    if run:
        (folder / "run").touch()
    return folder
