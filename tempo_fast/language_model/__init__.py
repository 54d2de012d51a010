"""The answering side: the prompt around the memory tokens, prefill, decode and text."""
