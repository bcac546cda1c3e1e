"""What the data set's card says of rounds, to whoever finds it on the hub."""

from dmkd.cards.markdown import markdown_table
from dmkd.stores import DamagedChunkError, Store
from dmkd.stores.opinions import sample_size
from dmkd.stores.showing.round_facts import followed_in_words, made_in_words, round_facts

_HEADER = ("round", "images", "student (sha256)", "compared with", "made as", "score", "mean score", "agrees")


def round_section(store: Store) -> list[str]:
    """A heading, what rounds are, and a line for each; nothing without rounds."""
    if not store.rounds:
        return []
    damaged: list[str] = []
    told = next((label_set for label_set in store.labels.values() if label_set.fitted), None)
    found = round_facts(store, told, set(store.missing_blocks()), sample_size(store.path), damaged)
    if damaged:
        raise DamagedChunkError(damaged[0])
    rows = [
        (
            one["number"],
            f"{one['images']:,}",
            followed_in_words(one) if one["number"] else "",
            one["labels"] or "",
            made_in_words(one) or "by the recipe",
            one["score"] or "",
            "" if one["mean_score"] is None else f"{one['mean_score']:.4g}",
            "" if one["agreement"] is None else f"{one['agreement']:.1%}",
        )
        for one in found
    ]
    return [
        "## Rounds",
        f"The images were made one round after the other, round 0 to {len(found) - 1}. Those of round 0 follow the recipe alone. "
        "A later round may follow a student, a network that had learned from the images before: its images were chosen from "
        "candidates, pushed while they were sampled, or dealt to classes, so that there is more to learn from them. They are no "
        "random sample of what the generator makes: hard images, and hard classes, may be more frequent.",
        markdown_table(_HEADER, rows),
        "*Score*: how much that student had to learn from an image, by what it and the teacher said of it: `kl:4` is their "
        "Kullback-Leibler divergence at temperature 4. *Agrees*: as above, over the images of the round. Of each round some "
        "blocks were read. Each image's round and score are the columns `round` and `score`; "
        '`dmkd train-student --select "round <= 1"` learns from the first rounds alone. The weights of the students are kept in '
        "the store.",
    ]
