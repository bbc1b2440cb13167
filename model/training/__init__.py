"""Training: its steps, the files of a run, what is optimised, and the processes that share a run."""
