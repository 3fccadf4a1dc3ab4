"""What is shown of work that goes on."""
