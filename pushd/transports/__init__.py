"""How a subscription reaches its client: one file a transport."""
