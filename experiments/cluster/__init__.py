"""Jobs on a SLURM cluster: what a site wants, batch scripts, job states, sweeps."""
