"""Config, loop, checkpoints and recipes: from rows to a trained policy."""
