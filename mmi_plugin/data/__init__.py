"""`mmi data`: files that are made once, before training or diagnosis."""
