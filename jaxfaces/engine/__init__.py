"""The trainer: phases, streams, checkpoints and logs for any task."""
