"""What the tests are made of: servers to start, a raw client, a proxy that cuts, and waiting with deadlines."""
