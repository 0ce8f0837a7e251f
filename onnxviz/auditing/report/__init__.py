"""The report that `audit`, `compare` and `report` share: what is on it (`page`), and all its files (`write`)."""
