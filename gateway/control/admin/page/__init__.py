"""The page of the admin API, which shows people what runs, and what it is kept up to date with."""
