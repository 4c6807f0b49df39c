"""Language models as policies: where they come from, their log-probs, their reference."""
