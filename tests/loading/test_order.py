import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmkd.loading.order import Batches, EpochOrder
from dmkd.stores import UsageError

WINDOWS = [(None, 1), (1, 1), (2, 1), (3, 1), (4, 2), (7, 3)]


def usable(num_images, block_size, dropped=0.0, missing=0.0):
    """Blocks that are there, and the images of these that are selected."""
    rng = np.random.default_rng(num_images)
    selected = rng.random(num_images) >= dropped
    blocks = np.flatnonzero(rng.random(-(-num_images // block_size)) >= missing)
    return blocks, selected & np.isin(np.arange(num_images) // block_size, blocks)


class Rank:
    """What one rank reads."""

    def __init__(self, num_images, block_size, batch_size, window, stretch, rank=0, world_size=1, **left_out):
        blocks, self.selected = usable(num_images, block_size, **left_out)
        self.order = EpochOrder(blocks, self.selected, block_size, 7, window, stretch)
        self.of = Batches(self.order.num_images, batch_size, rank, world_size)

    def batches(self, epoch):
        share = self.of.share(self.of.sizes)
        return [ids for ids, _ in self.order.batches(epoch * self.of.num_images, self.of.sizes, *share)]


def ranks(world_size, *arguments, **options):
    return [Rank(*arguments, rank=rank, world_size=world_size, **options) for rank in range(world_size)]


@settings(deadline=None, max_examples=200)
@given(
    num_images=st.integers(1, 300),
    block_size=st.sampled_from([1, 4, 16, 64]),
    batch_size=st.integers(1, 70),
    world_size=st.integers(1, 5),
    windowed=st.sampled_from(WINDOWS),
    dropped=st.floats(0, 0.5),
    missing=st.sampled_from([0.0, 0.3]),
    epoch=st.integers(0, 3),
)
def test_ranks_share_every_image_once_in_batches_of_one_size(
    num_images, block_size, batch_size, world_size, windowed, dropped, missing, epoch
):
    images = (num_images, block_size)
    left_out = {"dropped": dropped, "missing": missing}
    if usable(num_images, block_size, **left_out)[1].sum() < world_size:
        with pytest.raises(UsageError, match="can't be shared among"):
            ranks(world_size, *images, batch_size, *windowed, **left_out)
        return
    orders = ranks(world_size, *images, batch_size, *windowed, **left_out)
    selected = np.flatnonzero(orders[0].selected)
    batches = [order.batches(epoch) for order in orders]
    seen = np.concatenate([ids for rank in batches for ids in rank])
    assert sorted(seen.tolist()) == selected.tolist()
    assert len({len(rank) for rank in batches}) == 1
    sizes = [len(ids) for rank in batches for ids in rank]
    assert min(sizes) >= 1 and max(sizes) - min(sizes) <= 1
    assert max(sizes) <= batch_size or (
        max(sizes) == batch_size + 1 and (batch_size == 1 or len(selected) < 2 * world_size)
    )
    together = np.sum([[len(ids) for ids in rank] for rank in batches], axis=0)
    assert all(order.of.sizes.tolist() == together.tolist() for order in orders)
    again = ranks(world_size, *images, batch_size, *windowed, **left_out)[-1].batches(epoch)
    assert all((a == b).all() for a, b in zip(batches[-1], again, strict=True))
    alone = Rank(*images, batch_size * world_size, *windowed, **left_out)
    if len(alone.of) == len(batches[0]):
        for whole, *parts in zip(alone.batches(epoch), *batches, strict=True):
            assert whole.tolist() == sorted(np.concatenate(parts).tolist()), "ranks share the batches of a single one"


def in_use(batches, block_size):
    """Blocks that are there with each batch: those whose first image has been asked for, and whose last has not."""
    blocks = [np.unique(ids // block_size) for ids in batches]
    first, last = {}, {}
    for number, here in enumerate(blocks):
        for block in here.tolist():
            first.setdefault(block, number)
            last[block] = number
    return [sum(first[b] <= number <= last[b] for b in first) for number in range(len(blocks))]


@settings(deadline=None, max_examples=100)
@given(
    num_images=st.integers(300, 3000),
    block_size=st.sampled_from([4, 16, 64]),
    batch_size=st.integers(1, 64),
    world_size=st.integers(1, 4),
    windowed=st.sampled_from([(2, 1), (8, 1), (8, 2), (17, 3)]),
    dropped=st.sampled_from([0.0, 0.3]),
)
def test_a_rank_has_two_windows_of_blocks_at_most(num_images, block_size, batch_size, world_size, windowed, dropped):
    """Of what it uses and what it goes on to: this is the memory that it is given."""
    window, _ = windowed
    batch_size = max(1, min(batch_size, window * block_size // (2 * world_size)))  # a larger one needs what it needs
    for order in ranks(world_size, num_images, block_size, batch_size, *windowed, dropped=dropped):
        # The store's last block may be so short that a batch begins and ends in those around it.
        assert max(in_use(order.batches(1), block_size)) <= 2 * window + (num_images % block_size > 0)


def test_one_rank_goes_through_each_lane_one_stretch_at_a_time():
    order = Rank(64 * 16, 16, 32, 12, 3)  # 4 lanes of stretches of 3 blocks
    stretches = [np.unique(ids // 16 // 3) for ids in order.batches(0)]
    assert max(in_use(order.batches(0), 16 * 3)) <= 8 and np.mean([len(here) for here in stretches]) < 5
    begun = list(dict.fromkeys(np.concatenate(stretches).tolist()))
    assert sorted(begun) == list(range(22)) and begun != sorted(begun)


@pytest.mark.parametrize(("batch_size", "window"), [(256, 64), (128, 256), (1024, 85)])
def test_ranks_read_little_more_than_their_shares_of_the_blocks(batch_size, window):
    """Only lanes on the border of two ranks are read by both, however small a batch is beside the number of lanes."""
    shares = ranks(8, 100_000, 16, batch_size // 8, window, 1)
    read = [len(np.unique(np.concatenate(share.batches(2)) // 16)) for share in shares]
    assert sum(read) <= 1.25 * 6250 and max(read) <= 1.5 * 6250 / 8


@pytest.mark.parametrize("stretch", [1, 4])
def test_a_batch_has_images_of_every_lane(stretch):
    order = Rank(100_000, 16, 256, 64 * stretch, stretch)
    full = Rank(100_000, 16, 256, None, 1)
    for epoch in range(2):
        here = [len(np.unique(ids // (16 * stretch))) for ids in order.batches(epoch)]
        assert np.mean(here) >= 60
        # Where in the epoch an image comes says nothing of where it came in another epoch, nor of its id.
        places = [np.argsort(np.concatenate(o.batches(epoch))) for o in (order, full)]
        others = [np.argsort(np.concatenate(order.batches(7))), np.arange(100_000)]
        for place in places:
            assert all(abs(np.corrcoef(place, other)[0, 1]) < 0.1 for other in others)
