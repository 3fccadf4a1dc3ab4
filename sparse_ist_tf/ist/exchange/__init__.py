"""What crosses between home shards and subnets, in which form, and who keeps what."""
