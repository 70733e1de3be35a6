"""Training that comes before any task: knowledge of topics, a prompt's first values, a head that an encoder lacks."""
