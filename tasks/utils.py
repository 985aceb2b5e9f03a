"""What the task YAMLs call."""

from mmi_plugin.harness.task import InterferenceTask

__all__ = ["InterferenceTask"]
