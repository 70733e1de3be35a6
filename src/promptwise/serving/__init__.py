"""Many adapters on one frozen model: rows of any mix of them share its forward pass."""
