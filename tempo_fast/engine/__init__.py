"""How the models run: kv cache, attention backends, sampling and generation."""
