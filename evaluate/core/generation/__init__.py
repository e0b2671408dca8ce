"""How good a generator's images are: measured against real ones, in the features of a network that looks at both."""
