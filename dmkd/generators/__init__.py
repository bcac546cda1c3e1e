"""From class ids and seeds to pixels: the models, how they are sampled, where their weights come from."""

from dmkd.runtime.weights_hash import state_dict_sha256

__all__ = ["state_dict_sha256"]
