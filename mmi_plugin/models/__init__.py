"""A checkpoint spoken to: one way from an item to its answer, in training as in evaluation."""
