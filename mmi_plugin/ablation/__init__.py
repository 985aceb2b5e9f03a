"""`mmi sweep-train`: a training config with one field changed at a time, over seeds, on the embedded benchmark."""
