"""Tags: what a store held when it was given a name, as digests that every copy of it can be compared with.

``tag`` what a tag is · ``covered`` what of a store it covers · ``writing`` making one · ``comparing`` a store with one. A store
as it was tagged is a :class:`dmkd.stores.tagged_store.TaggedStore`.
"""

from .comparing import verify_tag
from .tag import Tag, read_tag, read_tags
from .writing import write_tag

__all__ = ["Tag", "read_tag", "read_tags", "verify_tag", "write_tag"]
