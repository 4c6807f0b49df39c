"""Evaluating one model: leaderboard tasks, judged answers, held-out rewards, and the papers' tables beside them."""
