"""Cost and benefit of a sparse autoencoder beside a circuit of neurons."""
