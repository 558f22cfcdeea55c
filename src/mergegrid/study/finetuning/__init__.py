"""Fine-tune encoders and decoders for studies."""
