"""The embedded demonstration: base model, loop, report."""
