"""Data: rows of feedback, where they come from, and how they become examples and batches."""
