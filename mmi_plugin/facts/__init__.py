"""`mmi data facts`: sentences on wrong options, written by a language model."""
