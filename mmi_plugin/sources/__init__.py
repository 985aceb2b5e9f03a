"""Sources: one function per data set, by name; each gives a Benchmark of items."""

from mmi_plugin.sources import demo as _demo  # noqa: F401  (registers its sources)
from mmi_plugin.sources import interference as _interference  # noqa: F401
from mmi_plugin.sources import own as _own  # noqa: F401
from mmi_plugin.sources import public as _public  # noqa: F401
from mmi_plugin.sources.registry import LICENCES, SOURCES, Benchmark, is_known, load, options_of, pool_images, source

__all__ = ["LICENCES", "SOURCES", "Benchmark", "is_known", "load", "options_of", "pool_images", "source"]
