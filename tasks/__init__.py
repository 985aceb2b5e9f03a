"""Task YAMLs for lmms-eval."""
