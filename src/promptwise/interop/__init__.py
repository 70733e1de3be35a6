"""promptwise inside peft, which has to be installed."""

from importlib.util import find_spec

from promptwise.errors import ConfigError

if find_spec("peft") is None:
    raise ConfigError("IPTConfig needs peft: pip install 'promptwise[peft]'.")
