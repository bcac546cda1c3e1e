"""What training from a bucket moves, in lines for a person."""

from typing import Any

from dmkd.recipes.traffic import training_traffic
from dmkd.runtime.space import byte_size

HOW = {"without_cache": "each epoch anew", "with_cache": "with --cache"}


def traffic_of(facts: dict[str, Any], dollars_per_gb: float | None) -> dict[str, Any]:
    """Of a store that is there, by what :func:`dmkd.stores.showing.facts.store_facts` found; with its first label set."""
    from dmkd.training.presets import schedule_for

    height, width, channels = facts["image_shape"]
    label_set = next(iter(facts["label_sets"]), None)
    return training_traffic(
        facts["arrays"],
        num_blocks=facts["blocks"],
        image_bytes=facts["images"] * height * width * channels,
        image_codec=facts["image_codec"],
        label_set=label_set,
        view_set=facts["label_sets"][label_set]["view_set"] if label_set else next(iter(facts["view_sets"]), None),
        epochs=schedule_for(facts["recipe"].get("generator"), max(height, width))[1]["epochs"],
        dollars_per_gb=dollars_per_gb,
    )


def traffic_lines(traffic: dict[str, Any]) -> list[tuple[str, str]]:
    """Of :func:`dmkd.recipes.traffic.training_traffic`; ``packed`` in it says whether the store is, if there is one."""
    lines = [("training", f"{traffic['epochs']} epochs from a bucket")]
    for how, words in HOW.items():
        requests = {kind: counts[how] for kind, counts in traffic["requests"].items()}
        asked = f"{requests['packed']:,} requests"
        if not traffic.get("packed"):
            asked = f"{requests['loose']:,} requests ({requests['packed']:,} if it is packed)"
        lines.append((words, f"{_moved(traffic, how)} in {asked}"))
    if small := traffic.get("small"):
        both = ", ".join(f"{words} {_moved(small, how)}" for how, words in HOW.items())
        lines.append((f"as {small['image_codec']}", f"about {both}"))
    return lines


def _moved(traffic: dict[str, Any], how: str) -> str:
    price = f", {traffic['dollars'][how]:,.2f} dollars" if "dollars" in traffic else ""
    return f"{byte_size(traffic['bytes'][how])}{price}"
