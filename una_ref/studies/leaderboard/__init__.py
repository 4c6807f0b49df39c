"""The exact leaderboard: every method on enumerable worlds, with the same data and updates, judged by exact regret."""
