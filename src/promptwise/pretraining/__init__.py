"""Training that comes before any task: a language-model head for an encoder that has none."""
