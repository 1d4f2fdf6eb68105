"""The configuration of a run: what it may say (`schema`, `checks`) and how a file becomes one (`loader`)."""

from glacierhpc.config.loader import config_hash, config_to_yaml, load_config, run_config
from glacierhpc.config.schema import Config

__all__ = ["Config", "config_hash", "config_to_yaml", "load_config", "run_config"]
