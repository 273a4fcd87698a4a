"""Evaluation: numbers with their protocol, never without it."""
