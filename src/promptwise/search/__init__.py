"""Searching for settings on the validation part: trials of one study, chosen by Optuna, in any number of processes."""
