"""What must be known of timm's default weights before they teach: with which loss they were trained."""

from dmkd.classifiers.sources import parse_classifier

# timm's tags for the recipes of Wightman, Touvron, Jegou 2021 ("ResNet strikes back") and variants of them that train with
# binary cross-entropy.
BINARY_CROSS_ENTROPY = ("a1", "a2", "a3", "a1h", "a2h", "ah", "d")
CROSS_ENTROPY = ("tv_in1k", "tv2_in1k", "gluon_in1k")  # the first that there is is recommended


def default_weights_notice(source: str) -> str | None:
    """What to say of a teacher that was named without a tag, if timm's default weights of it were trained with binary
    cross-entropy; None otherwise. From timm's own list: nothing is loaded, and no network is asked."""
    import timm

    meant = parse_classifier(source)
    if meant.path is not None or "." in source or not timm.is_model(source):
        return None
    config = timm.get_pretrained_cfg(source)
    if config is None or (config.tag or "").split("_")[0] not in BINARY_CROSS_ENTROPY:
        return None
    there = timm.list_pretrained(f"{source}.*")
    better = next((f"{source}.{tag}" for tag in CROSS_ENTROPY if f"{source}.{tag}" in there), None)
    advice = f"--teacher {better} was trained with cross-entropy" if better else "timm has none of it that were not"
    return (
        f"Teacher {source} stands for {source}.{config.tag}, weights that were trained with binary cross-entropy: their logits "
        f"do not behave like a softmax classifier's; {advice}."
    )
