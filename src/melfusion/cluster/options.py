"""Options of a SLURM job."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class ClusterConfig:
    """A SLURM job of `melfusion submit` (configs/cluster/slurm.yaml); null leaves the choice to the site."""

    account: str | None = None  # the account that pays for the job
    partition: str | None = None  # where the job queues
    qos: str | None = None  # quality of service
    constraint: str | None = None  # features of the nodes
    time: str = "24:00:00"  # limit of one start, [days-]hours:minutes:seconds
    nodes: int = 1  # machines
    gpus_per_node: int = 1  # and tasks per node, one each; 0: one task without a GPU
    cpus_per_gpu: int = 8  # of each task
    memory: str | None = None  # of a node: 64G
    container: str | None = None  # an image.sif, or docker://…
    container_runtime: str = "apptainer"  # apptainer | pyxis (srun --container-image)
    container_args: list[str] = field(default_factory=list)  # to `apptainer exec`, or to srun for pyxis: [--bind, /scratch]
    setup: list[str] = field(default_factory=list)  # shell lines on the first node before srun: [module load cuda]
    signal_s: int = 120  # SIGUSR1 to every task this long before the limit; SLURM may send it a minute early
    requeue: bool = True  # after preemption and at the limit the same job goes on
    extra: dict[str, Any] = field(default_factory=dict)  # other options of sbatch: {exclusive: true}; a gres then asks for the GPUs
