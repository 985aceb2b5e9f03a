"""Diagnose and mitigate modality interference in multimodal language models."""

__version__ = "0.1.0"
