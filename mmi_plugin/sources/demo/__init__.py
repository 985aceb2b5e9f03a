"""The embedded benchmark: real digits and real capitals, built offline, the same every time."""

from mmi_plugin.sources.demo.arith import demo_arith
from mmi_plugin.sources.demo.capitals import demo_capitals
from mmi_plugin.sources.demo.digits import demo_digits

__all__ = ["demo_arith", "demo_capitals", "demo_digits"]
