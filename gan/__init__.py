"""The person generator: trained on its own, sampled, and at work in the training of a re-ID network."""
