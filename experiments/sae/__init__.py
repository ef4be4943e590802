"""What a sparse autoencoder costs to train, and what it buys beside a circuit of neurons."""
