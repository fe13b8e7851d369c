"""SLURM: the batch script of a job, and what a process finds out inside one."""
