"""Glue to lmms-eval: tasks, our model, the launcher."""
