"""How a hidden state becomes class scores."""
