"""The models of the harness: one road from an item to its answer."""
