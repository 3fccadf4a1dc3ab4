"""Workers on hosts of their own behind links that are really thin."""
