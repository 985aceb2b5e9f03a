"""The nine public benchmarks of the suite, from the hub or from a local copy."""

from mmi_plugin.sources.suite.arc_challenge import arc_challenge
from mmi_plugin.sources.suite.caltech101 import caltech101
from mmi_plugin.sources.suite.food101 import food101
from mmi_plugin.sources.suite.mini_imagenet import mini_imagenet
from mmi_plugin.sources.suite.mmbench import mmbench
from mmi_plugin.sources.suite.mmlu import mmlu
from mmi_plugin.sources.suite.openbookqa import openbookqa
from mmi_plugin.sources.suite.scienceqa import scienceqa
from mmi_plugin.sources.suite.seedbench import seedbench

SUITE = (mini_imagenet, caltech101, food101, openbookqa, mmlu, arc_challenge, scienceqa, mmbench, seedbench)

__all__ = ["SUITE", *(load_split.__name__ for load_split in SUITE)]
