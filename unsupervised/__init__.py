"""Training without labels: clusters of the network's embeddings take the place of identities."""
