"""The ledger of bytes, metrics, progress and figures: used by every room."""
