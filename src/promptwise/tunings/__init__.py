"""What is added to the weights of a backbone itself for one task."""
