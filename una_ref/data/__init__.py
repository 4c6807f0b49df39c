"""Feedback about responses: what a row is, where rows come from, how a batch is made of them."""
