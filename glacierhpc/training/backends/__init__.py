"""The ways of running one training on several processes, one module each; `training.distributed` chooses."""
