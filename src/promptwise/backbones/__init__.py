"""The frozen language models: finding, loading, freezing, and running them with what injectors make."""
