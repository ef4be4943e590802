"""Features of sparse autoencoders, and scaling them."""
