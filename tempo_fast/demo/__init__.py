"""What `tempo-fast demo` makes on the spot: a video of known content and a small checkpoint."""
