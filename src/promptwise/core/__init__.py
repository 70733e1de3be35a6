"""What is passed between strategy, injector and backbone: instances, prompts, injections."""
