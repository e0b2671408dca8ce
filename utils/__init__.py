"""What every other package uses, and what uses none of them."""
