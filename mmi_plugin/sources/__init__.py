"""Sources: one small adapter per data set, each giving a Benchmark of items."""

from mmi_plugin.sources import demo as _demo  # noqa: F401  (registers its sources)
from mmi_plugin.sources import suite as _suite  # noqa: F401
from mmi_plugin.sources import textcaps as _textcaps  # noqa: F401
from mmi_plugin.sources.registry import SOURCES, Benchmark, load, options_of, pool_images

__all__ = ["SOURCES", "Benchmark", "load", "options_of", "pool_images"]
