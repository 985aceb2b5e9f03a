"""Studies: configs, conditions and checkpoints in; what trainings and evaluations of them say out."""

from __future__ import annotations


def lmms_eval(**flags: object) -> int:
    """Evaluate with `flags` of lmms-eval's command line, True for one without a value; return its exit status."""
    from mmi_plugin.harness.launcher import main  # imports lmms-eval, for which nobody waits in vain

    given = [[f"--{name}"] if value is True else [f"--{name}", str(value)] for name, value in flags.items()]
    return main([part for flag in given for part in flag])
