"""The certificate of a loss function: what it is, what it ignores and what it learns."""

from una_ref.examine.certificate import Certificate, examine

__all__ = ["Certificate", "examine"]
