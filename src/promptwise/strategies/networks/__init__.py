"""Small networks that read a text's tokens for a strategy."""
