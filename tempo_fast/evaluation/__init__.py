"""Asking a checkpoint a set of questions with known answers, and what its replies are worth."""
