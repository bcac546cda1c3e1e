"""From class ids and seeds to pixels: the models, how they are sampled, where their weights come from."""
