"""Whether a row is audited: by chance over rows, but always the same for one row."""

import hashlib

_PERSON = b"weir-audit"  # keeps this choice independent of any other hash of a row id
_SCALE = 1 << 64


def audited(row_id: int, share: float) -> bool:
    """Whether the row falls under the share. A row chosen for one share is chosen for every larger one.

    row_id: 128 bits. Raises ValueError for a share outside 0..1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the audited share must be from 0 to 1, not {share}")
    digest = hashlib.blake2b(row_id.to_bytes(16), digest_size=8, person=_PERSON).digest()
    return int.from_bytes(digest) < share * _SCALE
