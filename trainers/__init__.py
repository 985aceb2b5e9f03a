"""Mitigation on TRL."""
