"""The networks of Tempo: vision encoder, decoder (compressor and language model), projector."""
